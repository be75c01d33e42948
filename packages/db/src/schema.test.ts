import { readFile, writeFile } from 'node:fs/promises';
import { freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { expect, test } from 'vitest';
import { createDataSource } from './data-source.ts';
import { dumpSchema } from './dump-schema.ts';
import { migrate, undoMigration } from './schema.ts';

const SNAPSHOT = new URL('../schema.sql', import.meta.url);

test('migrating installs the schema, and again does no harm', async () => {
  const { url, drop } = await freshDatabase();
  expect((await migrate(url)).length).toBeGreaterThan(0);
  const schema = await schemaOf(url);
  expect(await migrate(url)).toEqual([]);
  expect(await schemaOf(url)).toBe(schema);
  await drop();
});

test('twenty processes may migrate at once', async () => {
  const { url, drop } = await freshDatabase();
  const ran = await Promise.all(Array.from({ length: 20 }, () => migrate(url)));
  expect(ran.filter((names) => names.length > 0)).toHaveLength(1);
  await drop();
});

test('every migration can be undone and done again', async () => {
  const { url, drop } = await freshDatabase();
  await migrate(url);
  const schema = await schemaOf(url);
  while (await undoMigration(url));
  expect(
    (await schemaOf(url))
      .trim()
      .split('\n\n')
      .map((part) => part.split(' ')[1]),
  ).toEqual(['tally_migrations']);
  await migrate(url);
  expect(await schemaOf(url)).toBe(schema);
  await drop();
});

test('the schema is the one in git; `pnpm schema` writes it anew', async () => {
  const { url, drop } = await freshDatabase(migrate);
  const schema = await schemaOf(url);
  if (process.env.TALLY_WRITE_SCHEMA) await writeFile(SNAPSHOT, schema);
  expect(schema).toBe(await readFile(SNAPSHOT, 'utf8'));
  await drop();
});

test('the entities agree with the migrated tables', async () => {
  const { url, drop } = await freshDatabase(migrate);
  const dataSource = await createDataSource(url).initialize();
  const { upQueries } = await dataSource.driver.createSchemaBuilder().log();
  // Names and comments are the migrations' own; types, nullability and columns must agree.
  const differing = upQueries.map(({ query }) => query).filter((query) => !/CONSTRAINT|DEFAULT|INDEX/.test(query));
  expect(differing).toEqual([]);
  await dataSource.destroy();
  await drop();
});

async function schemaOf(url: string): Promise<string> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await dumpSchema(client);
  } finally {
    await client.end();
  }
}
