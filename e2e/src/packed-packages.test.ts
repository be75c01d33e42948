import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, startServiceProcess } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const KEY = 'the-admin-key-of-the-app';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-app-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('an app outside the workspace installs the packed contracts and client, compiles strictly and calls a running service', async () => {
  for (const name of ['contracts', 'client']) {
    run(join(ROOT, 'node_modules/.bin/pnpm'), ['pack', '--pack-destination', folder], join(ROOT, 'packages', name));
  }
  const tarballs = (await readdir(folder)).filter((name) => name.endsWith('.tgz')).map((name) => `./${name}`);
  await writeFile(join(folder, 'package.json'), JSON.stringify({ name: 'app', private: true, type: 'module' }));
  run('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', ...tarballs], folder);
  for (const name of ['contracts', 'client']) {
    const files = await readdir(join(folder, 'node_modules/@tally', name));
    expect(files).toEqual(expect.arrayContaining(['LICENSE', 'README.md', 'dist', 'package.json']));
  }
  await writeFile(join(folder, 'tsconfig.json'), JSON.stringify(TSCONFIG));
  await writeFile(join(folder, 'app.ts'), APP);
  await symlink(join(ROOT, 'node_modules/@types'), join(folder, 'node_modules/@types'));
  run(join(ROOT, 'node_modules/.bin/tsc'), ['-p', folder], folder);

  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY };
  const ingest = await startServiceProcess('usage-ingest', env);
  try {
    const output = run(process.execPath, ['app.js'], folder, { INGEST: ingest.url, KEY });
    expect(JSON.parse(output)).toEqual({ accepted: 1, total: '500', code: 'NOT_FOUND' });
  } finally {
    await ingest.stop();
    await Promise.all([database.drop(), redis.drop()]);
  }
});

const TSCONFIG = {
  compilerOptions: {
    strict: true,
    module: 'nodenext',
    target: 'es2022',
    exactOptionalPropertyTypes: true,
    types: ['node'],
  },
  files: ['app.ts'],
};

const APP = `
import { isTallyError, type UsageEntry } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { createTally } from '@tally/client';

const producer = createTally({ url: process.env.INGEST!, key: process.env.KEY! });
producer.record({ merchantId: 'app', metrics: { prompt_tokens: 126 } });
await producer.close();
const tally = createIngestClient({ url: process.env.INGEST!, key: process.env.KEY! });
const entry: UsageEntry = { id: '1', merchantId: 'app', metrics: { prompt_tokens: '374' } };
const { accepted } = await tally.usage.record.mutate({ entries: [entry] });
const current = await tally.usage.current.query({ merchantId: 'app' });
const total: string | undefined = current.metrics.prompt_tokens;
// @ts-expect-error there is no such procedure
void tally.usage.forget;
// @ts-expect-error an amount is text or a number
const wrong: UsageEntry = { id: '1', merchantId: 'app', metrics: { prompt_tokens: true } };
void wrong;
const code = await tally.keys.revoke.mutate({ id: '00000000-0000-4000-8000-000000000000' }).then(
  () => 'none',
  (error: { data?: { code?: string } }) => (isTallyError(error) ? 'local' : error.data?.code),
);
console.log(JSON.stringify({ accepted, total, code }));
`;

function run(command: string, args: string[], cwd: string, env: Record<string, string> = {}): string {
  const result = spawnSync(command, args, { cwd, env: { ...process.env, ...env }, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${result.stdout}\n${result.stderr}`);
  return result.stdout;
}
