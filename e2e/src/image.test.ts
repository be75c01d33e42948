import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, copyFile, lstat, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createIngestClient } from '@tally/contracts/client';
import { freePort, freshDatabase, freshRedis, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { instructionsOf, runDockerfile } from '../../infra/docker/steps.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DOCKERFILE = join(ROOT, 'infra/docker/Dockerfile');
const KEYS = { TALLY_ADMIN_KEY: 'the-admin-key-of-the-image', TALLY_SERVICE_KEY: 'the-service-key-of-the-image' };
const MEBIBYTE = 2 ** 20;
/** The limit for all files without the base image; measured: 47 MiB. */
const MOST_MEBIBYTES = 55;
/** The services run as a user that owns nothing, like `node` in the image. */
const NOBODY = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};

let folder: string;
const node = () => join(folder, 'node');
const undo: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-image-'));
  await chmod(folder, 0o755);
  // Node may be where only its owner can read.
  await copyFile(process.execPath, node());
  undo.push(() => rm(folder, { recursive: true, force: true }));
});
afterAll(async () => {
  for (const step of undo.reverse()) await step();
});

test('the image has an exact LTS base, a user, a health check, labels and no secret', async () => {
  const instructions = instructionsOf(await readFile(DOCKERFILE, 'utf8'));
  const all = (name: string) => instructions.filter((each) => each.name === name).map(({ value }) => value);
  const stages = all('FROM').map((value) => value.split(' AS ')[1]);
  const bases = all('FROM').map((value) => value.split(' ')[0]!);
  // Even major versions are the ones with long-term support.
  for (const base of bases.filter((each) => !stages.includes(each)))
    expect(base).toMatch(/^node:\d*[02468]\.\d+\.\d+-bookworm-slim$/);
  const last = instructions.slice(instructions.findLastIndex(({ name }) => name === 'FROM'));
  const names = last.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['USER', 'HEALTHCHECK', 'LABEL', 'EXPOSE', 'CMD']));
  expect(last.findLast(({ name }) => name === 'USER')?.value).toBe('node');
  expect(last.filter(({ name, value }) => name === 'COPY' && /--chown/.test(value))).toEqual([]);
  expect(all('ARG')).toEqual([]);
  expect(all('ENV').join(' ')).not.toMatch(/KEY|SECRET|PASSWORD|TOKEN|URL/);
});

test('the steps of the Dockerfile, in an empty folder, make a tree that migrates and runs all programs as nobody', {
  timeout: 1_440_000,
}, async () => {
  const { workdir } = await runDockerfile({ file: DOCKERFILE, context: ROOT, folder: join(folder, 'image') });
  expect((await bytesIn(workdir)) / MEBIBYTE).toBeLessThan(MOST_MEBIBYTES);
  expect(await readdir(workdir)).not.toEqual(expect.arrayContaining(['e2e', 'bench', 'docs', '.git']));

  const [database, redis] = await Promise.all([freshDatabase(), freshRedis()]);
  undo.push(database.drop, redis.drop);
  const env = { NODE_ENV: 'production', ...KEYS, DATABASE_URL: database.url, REDIS_URL: redis.url };
  const run = (program: string | string[], more: Record<string, string> = {}) =>
    runIn(workdir, program, { ...env, SHUTDOWN_DELAY_MS: '0', ...more });

  const migration = run('packages/db/dist/migrate.js');
  expect(await migration.exited).toBe(0);
  expect(migration.output()).toContain('migrated: ');

  // An export to a store that is not there: the SDK is loaded, and says so.
  const store = { AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1', AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' };
  const exporting = run(['packages/db/dist/export.js', 's3://nowhere', 'adjustments'], store);
  expect(await exporting.exited).toBe(1);
  expect(exporting.output()).toContain('ECONNREFUSED');

  const names = ['usage-ingest', 'metrics-engine', 'analytics-api', 'console'];
  const ports = await Promise.all([...names, 'flusher'].map(() => freePort()));
  const [ingestUrl, engineUrl, analyticsUrl, consoleUrl] = ports.map((port) => `http://127.0.0.1:${port}`) as string[];
  const addresses = { USAGE_INGEST_URL: ingestUrl!, METRICS_ENGINE_URL: engineUrl!, ANALYTICS_API_URL: analyticsUrl! };
  const services = names.map((name, index) =>
    run(`apps/${name}/dist/main.js`, { ...addresses, PORT: String(ports[index]), ENABLE_FLUSH: 'false' }),
  );
  const flusher = run('apps/usage-ingest/dist/flusher.js', { PORT: String(ports[names.length]) });
  const all = [...services, flusher];
  undo.push(() => Promise.all(all.map(({ end }) => end())));
  for (const [index, service] of all.entries()) await ready(`http://127.0.0.1:${ports[index]}/readyz`, service);

  const client = createIngestClient({ url: consoleUrl!, key: KEYS.TALLY_ADMIN_KEY });
  const entries = [{ id: '1', merchantId: 'image', metrics: { queries: '1' } }];
  expect(await client.usage.record.mutate({ entries })).toMatchObject({ accepted: 1 });
  await until('the event to be counted', async () => (await client.flush.status.query({})).recordCount > 0);
  const job = run(['infra/local/run.mjs', 'apps/usage-ingest/dist/jobs/main.js', 'reconcile'], addresses);
  expect([await job.exited, job.output()]).toEqual([0, expect.stringContaining('every stored form agrees')]);
  expect(await (await fetch(consoleUrl!)).text()).toContain('<div id="root">');
  expect(await Promise.all(all.map(({ end }) => end()))).toEqual(all.map(() => 0));
});

function runIn(cwd: string, program: string | string[], env: Record<string, string>) {
  const child = spawn(node(), [program].flat(), {
    cwd,
    env: { PATH: process.env.PATH, HOST: '127.0.0.1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    ...NOBODY,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-5_000);
    });
  }
  const exited = once(child, 'close').then(([code]) => code as number | null);
  return {
    output: () => output,
    exited,
    hasEnded: () => child.exitCode !== null,
    end: () => {
      child.kill('SIGTERM');
      return exited;
    },
  };
}

async function ready(url: string, service: ReturnType<typeof runIn>): Promise<void> {
  await until(`${url} to answer 200`, () => {
    if (service.hasEnded()) throw new Error(service.output());
    return fetch(url).then(
      ({ ok }) => ok,
      () => false,
    );
  });
}

/** Returns the bytes of all files, without targets of symbolic links. */
async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { withFileTypes: true });
  const sizes = entries.map(async (entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? bytesIn(path) : (await lstat(path)).size;
  });
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}
