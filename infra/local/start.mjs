import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { homeOf, isFree, makeHome, ROOT, secretIn } from './home.mjs';
import { ensureBuilt, ensureInstalled } from './pnpm.mjs';
import { commandOf, endProcess, endRemembered, readPid, rememberPid, startProcess } from './processes.mjs';
import { startServers } from './servers.mjs';

const SERVICES = ['usage-ingest', 'metrics-engine', 'analytics-api'];
const READY_DEADLINE_MS = 120_000;
const STOP_DEADLINE_MS = 20_000;
const BACKOFF_MS = [250, 10_000];
/** A process that lived this long starts with a short pause again. */
const STEADY_MS = 30_000;

const started = Date.now();
const home = homeOf();
const portBase = Number(process.env.TALLY_PORT_BASE || 4000);
const serviceStops = [];
const stops = [];
let stopping = false;

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    if (stopping) process.exit(1);
    console.log('stopping');
    void stopAll().then(() => process.exit(0));
  });
}

try {
  await claimHome();
  ensureInstalled();
  step('dependencies');
  ensureBuilt();
  step('build');
  const stores = await openStores();
  step('postgres and redis');
  migrate(stores);
  step('migrations');
  const env = await serviceEnv(stores);
  await checkPorts();
  for (const [index, name] of SERVICES.entries()) runService(name, { ...env, PORT: String(portBase + 1 + index) });
  await allReady();
  const address = (index) => `http://127.0.0.1:${portBase + 1 + index}`;
  for (const [index, name] of SERVICES.entries()) console.log(`  ${name.padEnd(15)} ${address(index)}`);
  console.log(
    `  admin key       ${process.env.TALLY_ADMIN_KEY ? 'TALLY_ADMIN_KEY' : `${env.TALLY_ADMIN_KEY} (${join(home, 'admin-key')})`}`,
  );
  console.log(`  logs            ${join(home, 'logs')}`);
  console.log('ready');
} catch (error) {
  console.error(`npm start failed: ${error.message}`);
  await stopAll();
  process.exit(1);
}

function step(what) {
  console.log(`  ${((Date.now() - started) / 1000).toFixed(1).padStart(5)} s  ${what}`);
}

/** One `npm start` per home: two would fight over the data. */
async function claimHome() {
  await makeHome(home);
  const file = join(home, 'run', 'start.pid');
  const other = await readPid(file);
  if (other && other !== process.pid && commandOf(other).includes('start.mjs')) {
    throw new Error(
      `${home} is in use by another npm start (process ${other}); stop it, or choose another TALLY_HOME.`,
    );
  }
  await rememberPid(file, process.pid);
  stops.push(() => rm(file, { force: true }));
  for (const name of SERVICES) await endRemembered(pidFileOf(name), name);
}

async function openStores() {
  const given = { DATABASE_URL: process.env.DATABASE_URL, REDIS_URL: process.env.REDIS_URL };
  const only = [...(given.DATABASE_URL ? [] : ['postgres']), ...(given.REDIS_URL ? [] : ['redis'])];
  const servers = await startServers({ home, only });
  stops.push(() => servers.stop());
  for (const handle of servers.handles)
    void keepAlive(
      handle.name,
      () => handle.start(),
      () => handle,
    );
  const stores = {
    DATABASE_URL: given.DATABASE_URL || servers.databaseUrl,
    REDIS_URL: given.REDIS_URL || servers.redisUrl,
  };
  const file = join(home, 'run', 'stores.json');
  await rm(file, { force: true });
  await writeFile(file, JSON.stringify(stores), { mode: 0o600 });
  stops.push(() => rm(file, { force: true }));
  return stores;
}

function migrate(stores) {
  const script = join(ROOT, 'packages/db/dist/migrate.js');
  const { status, stderr } = spawnSync(process.execPath, [script], {
    env: { ...process.env, ...stores },
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the migrations failed:\n${stderr}`);
}

async function serviceEnv(stores) {
  const key = (role) => () => `tally_${role}_${randomBytes(32).toString('base64url')}`;
  return {
    ...process.env,
    ...stores,
    NODE_ENV: process.env.NODE_ENV || 'production',
    HOST: process.env.HOST || '127.0.0.1',
    TALLY_ADMIN_KEY: process.env.TALLY_ADMIN_KEY || (await secretIn(join(home, 'admin-key'), key('admin'))),
    TALLY_SERVICE_KEY: process.env.TALLY_SERVICE_KEY || (await secretIn(join(home, 'service-key'), key('service'))),
    USAGE_INGEST_URL: `http://127.0.0.1:${portBase + 1}`,
    METRICS_ENGINE_URL: `http://127.0.0.1:${portBase + 2}`,
    ANALYTICS_API_URL: `http://127.0.0.1:${portBase + 3}`,
  };
}

async function checkPorts() {
  for (const index of SERVICES.keys()) {
    const port = portBase + 1 + index;
    if (!(await isFree(port)))
      throw new Error(`port ${port} is taken; choose others with TALLY_PORT_BASE (now ${portBase}).`);
  }
}

function pidFileOf(name) {
  return join(home, 'run', `${name}.pid`);
}

function runService(name, env) {
  let running;
  const start = async () => {
    running = startProcess({
      name,
      command: process.execPath,
      args: [join(ROOT, 'apps', name, 'dist', 'main.js')],
      env,
      cwd: ROOT,
      logFile: join(home, 'logs', `${name}.log`),
    });
    if (running.child.pid) await rememberPid(pidFileOf(name), running.child.pid);
  };
  serviceStops.push(async () => {
    if (running?.child.pid) await endProcess(running.child.pid, 'SIGTERM', STOP_DEADLINE_MS);
    await rm(pidFileOf(name), { force: true });
  });
  void start().then(() => keepAlive(name, start, () => running));
}

/** Starts again what died, after a pause that grows while it keeps dying. */
async function keepAlive(name, start, current) {
  let pause = BACKOFF_MS[0];
  while (!stopping) {
    const since = Date.now();
    const how = await current().exited;
    if (stopping) return;
    if (Date.now() - since > STEADY_MS) pause = BACKOFF_MS[0];
    console.error(`${name} ended (${how}); it is started again in ${pause} ms\n${lastLines(current().tail())}`);
    await wait(pause);
    pause = Math.min(pause * 2, BACKOFF_MS[1]);
    if (stopping) return;
    await start().catch((error) => console.error(`${name}: ${error.message}`));
  }
}

const lastLines = (text) => text.trimEnd().split('\n').slice(-5).join('\n');

async function allReady() {
  const deadline = Date.now() + READY_DEADLINE_MS;
  const waiting = new Set(SERVICES.keys());
  while (waiting.size > 0) {
    for (const index of waiting) {
      const ok = await fetch(`http://127.0.0.1:${portBase + 1 + index}/readyz`, {
        signal: AbortSignal.timeout(2_000),
      }).then(
        (response) => response.ok,
        () => false,
      );
      if (ok) waiting.delete(index);
    }
    if (stopping) await new Promise(() => {});
    if (waiting.size > 0 && Date.now() > deadline) {
      throw new Error(
        `not ready after ${READY_DEADLINE_MS / 1000} s: ${[...waiting].map((index) => SERVICES[index]).join(', ')}`,
      );
    }
    if (waiting.size > 0) await wait(50);
  }
}

/** Services first, together; then what they stand on; then the traces. */
async function stopAll() {
  stopping = true;
  await Promise.allSettled(serviceStops.map((stop) => stop()));
  for (const stop of stops.reverse()) await stop().catch((error) => console.error(error.message));
}
