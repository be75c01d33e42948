import type pg from 'pg';
import { sql } from './run-sql.ts';

/**
 * Returns the schema as text, from the catalogs: tables with columns, constraints and indexes, in order of name.
 * Partitions of the journal are data, not schema.
 */
export async function dumpSchema(client: pg.Client): Promise<string> {
  const texts = async (statement: string, ...values: unknown[]): Promise<string[]> => {
    const { rows } = await client.query({ text: sql(statement), values, rowMode: 'array' });
    return rows.map(([text]) => text as string);
  };
  const { rows: tables } = await client.query<{ oid: string; name: string; partition_key: string | null }>(
    sql('schema/tables'),
  );
  const parts: string[] = [];
  for (const { oid, name, partition_key } of tables) {
    const lines = [...(await texts('schema/columns', oid)), ...(await texts('schema/constraints', oid))];
    const indexes = await texts('schema/indexes', oid);
    const partitioned = partition_key === null ? '' : ` partition by ${partition_key}`;
    parts.push([`table ${name} (`, lines.join(',\n'), `)${partitioned};`, ...indexes].join('\n'));
  }
  return `${[...parts, ...(await texts('schema/views'))].join('\n\n')}\n`;
}
