import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createIngestClient } from '@tally/contracts/client';
import pg from 'pg';
import { freePort } from '../../infra/local/ports.mjs';
import { startServers } from '../../infra/local/servers.mjs';

// Runs usage-ingest of another version beside this one, on the same stores: `npm run mixed -- REF`, a tag or commit of
// this repository, or the folder of a build. Exits with 0 if no event is lost or counted twice and all stored forms
// agree, in each step of an upgrade and of the way back.
const NEW = fileURLToPath(new URL('../..', import.meta.url));
const KEY = 'the-admin-key-of-two-versions';
const READY_DEADLINE_MS = 300_000;
const [BATCH, BATCHES] = [200, 10];
const MERCHANTS = 40;

const ref = process.argv[2];
if (!ref || ref.startsWith('-')) {
  console.error('usage: npm run mixed -- REF, a tag or commit, or the folder of a build');
  process.exit(1);
}
const home = await mkdtemp(join(tmpdir(), 'tally-mixed-'));
const OLD = await buildOf(ref);
const servers = await startServers({ home, durable: true });
const sent = new Map();
const running = [];
let failed = false;
try {
  migrateBy(OLD);
  const before = await start(OLD);
  await step('the other version alone', [before], [before]);
  const ran = migrateBy(NEW);
  console.log(`migrations while it runs: ${ran}`);
  await step('the other version, on the new schema', [before], [before]);
  const after = await start(NEW);
  await step('both, each event sent to one and repeated to the other', [before, after], [before, after]);
  await end(before);
  await step('this version alone', [after], [after]);
  const again = await start(OLD);
  await step('both, on the way back', [again, after], [again, after]);
  await end(after);
  await step('the other version alone, gone back to', [again], [again]);
} catch (error) {
  failed = true;
  console.error(error);
} finally {
  for (const each of running) await end(each);
  await servers.remove();
  if (OLD.startsWith(home)) execFileSync('git', ['worktree', 'remove', '--force', OLD], { cwd: NEW });
  await rm(home, { recursive: true, force: true });
}
console.log(failed ? 'FAILED' : 'passed: nothing lost, nothing counted twice, no drift');
process.exit(failed ? 1 : 0);

/** Returns the folder of a build of `ref`: its own if it is one, else a work tree that is built now. */
async function buildOf(ref) {
  const folder = resolve(ref);
  if (await stat(join(folder, 'apps/usage-ingest/dist/main.js')).catch(() => false)) return folder;
  const tree = join(home, 'other');
  const run = (command, args, cwd) => execFileSync(command, args, { cwd, stdio: ['ignore', 'inherit', 'inherit'] });
  run('git', ['worktree', 'add', '--detach', tree, ref], NEW);
  run(process.execPath, ['infra/local/pnpm.mjs', 'install', '--frozen-lockfile'], tree);
  run(process.execPath, ['infra/local/pnpm.mjs', '--filter', '{./apps/usage-ingest}...', 'run', 'build'], tree);
  return tree;
}

function migrateBy(version) {
  const env = { PATH: process.env.PATH, DATABASE_URL: servers.databaseUrl };
  const program = join(version, 'packages/db/dist/migrate.js');
  return execFileSync(process.execPath, [program], { env, encoding: 'utf8' }).trim();
}

/** Starts usage-ingest of a version, which flushes; resolves when it is ready. */
async function start(version) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(process.execPath, [join(version, 'apps/usage-ingest/dist/main.js')], {
    env: {
      ...{ PATH: process.env.PATH, DATABASE_URL: servers.databaseUrl, REDIS_URL: servers.redisUrl },
      ...{ TALLY_ADMIN_KEY: KEY, PORT: String(port), LOG_LEVEL: 'error', FLUSH_INTERVAL_MS: '50' },
    },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const instance = { child, url, client: createIngestClient({ url, key: KEY }) };
  running.push(instance);
  const isReady = () =>
    fetch(`${url}/readyz`).then(
      async (response) => response.ok && !(await response.json()).degraded,
      () => false,
    );
  for (const deadline = Date.now() + READY_DEADLINE_MS; !(await isReady()); await wait(50)) {
    if (child.exitCode !== null) throw new Error(`usage-ingest of ${version} ended with ${child.exitCode}`);
    if (Date.now() > deadline) throw new Error(`usage-ingest of ${version} is not ready`);
  }
  return instance;
}

async function end({ child }) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  await exited;
}

/** Sends events in turn to `ingests`, a third of them again to the next one, and compares what is counted. */
async function step(name, ingests, checkers) {
  for (let batch = 0; batch < BATCHES; batch++) {
    const entries = Array.from({ length: BATCH }, (_, index) => eventOf(`${sent.size}-${index}`, index));
    const [first, next] = [ingests[batch % ingests.length], ingests[(batch + 1) % ingests.length]];
    const answers = [await first.client.usage.record.mutate({ entries })];
    if (batch % 3 === 0) answers.push(await next.client.usage.record.mutate({ entries }));
    if (answers.some(({ rejected }) => rejected.length > 0)) throw new Error(JSON.stringify(answers));
    for (const { id, metrics } of entries) sent.set(id, metrics);
  }
  for (const { client } of checkers) await client.flush.drain.mutate({});
  const [calls, tokens] = [sumOf('calls'), sumOf('prompt_tokens')].map(String);
  const wanted = { events: String(sent.size), calls, prompt_tokens: tokens };
  let counted = await countedNow();
  // A shard that another instance holds is flushed by that one, soon.
  for (const deadline = Date.now() + READY_DEADLINE_MS; !isSame(counted, wanted); await wait(100)) {
    if (Date.now() > deadline) break;
    counted = await countedNow();
  }
  const today = new Date().toISOString().slice(0, 10);
  const reports = [];
  for (const { client } of checkers)
    reports.push(await client.reconcile.check.query({ startDate: today, endDate: today }));
  const isEqual = isSame(counted, wanted);
  const balanced = reports.every((report) => report.balanced);
  const numbers = isEqual ? 'all counted once' : JSON.stringify({ counted, wanted });
  console.log(`${name}: ${sent.size} events, ${numbers}, ${balanced ? 'balanced' : JSON.stringify(reports)}`);
  if (!isEqual || !balanced) failed = true;
}

function isSame(one, other) {
  return Object.keys(other).every((name) => one[name] === other[name]);
}

function eventOf(id, index) {
  return {
    ...{ id, merchantId: `merchant-${index % MERCHANTS}`, userId: `user-${index % 7}`, model: `model-${index % 3}` },
    ...{ provider: 'openai', metrics: { calls: '2', prompt_tokens: String(index), cost: '0.000001' } },
    properties: { region: 'eu' },
  };
}

function sumOf(metric) {
  return [...sent.values()].reduce((sum, metrics) => sum + BigInt(metrics[metric]), 0n);
}

async function countedNow() {
  const client = new pg.Client({ connectionString: servers.databaseUrl });
  await client.connect();
  const { rows } = await client.query(`
    select
      (select count(*) from usage_events)::text as events,
      (select sum(metric_value) from merchant_usage where metric_type = 'calls')::text as calls,
      (select sum(prompt_tokens) from usage_daily)::text as prompt_tokens`);
  await client.end();
  return rows[0];
}
