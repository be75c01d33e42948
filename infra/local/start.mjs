import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { helpOrContinue } from './help.mjs';
import { homeOf, makeHome, ROOT, secretIn } from './home.mjs';
import { keepAlive } from './keep-alive.mjs';
import { boundLogs } from './logs.mjs';
import { ensureBuilt, ensureInstalled, toolEnv } from './pnpm.mjs';
import { isFree } from './ports.mjs';
import { claimPidFile, endRemembered, rememberPid, startProcess, stopSignal } from './processes.mjs';
import { startServers } from './servers.mjs';

/** In the order of their ports; the console is the one origin of all. */
const SERVICES = ['console', 'usage-ingest', 'metrics-engine', 'analytics-api'];
const READY_DEADLINE_MS = 120_000;
const STOP_DEADLINE_MS = 20_000;
/** The exit code of a service with invalid settings (EX_CONFIG). */
const UNUSABLE_SETTINGS = 78;

/** `npm run dev`: rebuilds what changes, and restarts the services that use it. */
const isDev = process.argv[2] === '--watch';
helpOrContinue(isDev ? 'dev' : 'start', process.argv.slice(isDev ? 3 : 2));
const started = Date.now();
const portBase = Number(process.env.TALLY_PORT_BASE || 4000);
const addressOf = (index) => `http://127.0.0.1:${portBase + index}`;
const mainOf = (name) => join(ROOT, 'apps', name, 'dist', 'main.js');
const signal = stopSignal();
/** Aborted on a stop or a failed start: nothing is started again then. */
const ending = new AbortController();
const watching = AbortSignal.any([signal, ending.signal]);
/** Cleanup steps, pushed before each action and run last first. */
const undo = [];
let home;
let hadAdminKey = false;
let ready = false;
let code = 0;

signal.addEventListener('abort', () => console.log('stopping'));
try {
  await up();
  if (!signal.aborted) await new Promise((done) => signal.addEventListener('abort', done));
} catch (error) {
  if (!signal.aborted) {
    console.error(`npm start failed: ${error.message}`);
    code = 1;
  }
}
ending.abort();
for (const step of undo.reverse()) await step().catch((error) => console.error(error.message));
process.exit(code);

async function up() {
  home = await makeHome(homeOf());
  await claimHome();
  await checkPorts();
  await ensureInstalled({ signal });
  step('dependencies');
  await ensureBuilt({ signal });
  step('build');
  boundLogs(join(home, 'logs'), watching);
  const stores = await openStores();
  step('postgres and redis');
  await migrate(stores);
  step('migrations');
  const env = await serviceEnv(stores);
  signal.throwIfAborted();
  // Later, a service that exits for its settings is restarted like any other while the others continue.
  await Promise.race([allReady(), runServices(env)]);
  signal.throwIfAborted();
  ready = true;
  if (isDev) watchSources();
  for (const [index, name] of SERVICES.entries()) console.log(`  ${name.padEnd(15)} ${addressOf(index)}`);
  console.log(`  admin key       ${whereAdminKeyIs(env)}`);
  console.log(`  logs            ${join(home, 'logs')}`);
  console.log('ready');
}

function step(what) {
  console.log(`  ${((Date.now() - started) / 1000).toFixed(1).padStart(5)} s  ${what}`);
}

/** One `npm start` per home: two would write the same data. Ends what a killed one left running. */
async function claimHome() {
  const file = join(home, 'run', 'start.pid');
  const other = claimPidFile(file, 'start.mjs');
  if (other) {
    throw new Error(
      `${home} is in use by another npm start (process ${other}); stop it, or choose another TALLY_HOME.`,
    );
  }
  undo.push(() => rm(file, { force: true }));
  await Promise.all(SERVICES.map((name) => endRemembered(pidFileOf(name), mainOf(name))));
}

async function checkPorts() {
  if (!Number.isInteger(portBase) || portBase < 0 || portBase > 65_532) {
    throw new Error(`TALLY_PORT_BASE is not a port: ${process.env.TALLY_PORT_BASE}`);
  }
  for (const index of SERVICES.keys()) {
    const port = portBase + index;
    if (!(await isFree(port))) {
      throw new Error(`port ${port} is taken; choose others with TALLY_PORT_BASE (now ${portBase}).`);
    }
  }
}

async function openStores() {
  const { DATABASE_URL, REDIS_URL } = process.env;
  const only = [...(DATABASE_URL ? [] : ['postgres']), ...(REDIS_URL ? [] : ['redis'])];
  const servers = await startServers({ home, only, signal });
  undo.push(() => servers.stop());
  for (const handle of servers.handles) {
    void keepAlive({ name: handle.name, start: () => handle.start(), current: () => handle, signal: watching });
  }
  const stores = { DATABASE_URL: DATABASE_URL || servers.databaseUrl, REDIS_URL: REDIS_URL || servers.redisUrl };
  const file = join(home, 'run', 'stores.json');
  await rm(file, { force: true });
  undo.push(() => rm(file, { force: true }));
  await writeFile(file, JSON.stringify(stores), { mode: 0o600 });
  return stores;
}

async function migrate(stores) {
  const running = startProcess({
    name: 'migrations',
    command: process.execPath,
    args: [join(ROOT, 'packages/db/dist/migrate.js')],
    env: { ...process.env, ...stores },
    cwd: ROOT,
    logFile: join(home, 'logs', 'migrations.log'),
  });
  const abort = () => running.end('SIGTERM');
  signal.addEventListener('abort', abort);
  const how = await running.exited;
  signal.removeEventListener('abort', abort);
  signal.throwIfAborted();
  if (how !== 0) throw new Error(`the migrations failed (${how}):\n${running.tail()}`);
}

async function serviceEnv(stores) {
  hadAdminKey = existsSync(join(home, 'admin-key'));
  const key = (role) => () => `tally_${role}_${randomBytes(32).toString('base64url')}`;
  return {
    ...process.env,
    ...stores,
    NODE_ENV: process.env.NODE_ENV || 'production',
    // No load balancer sends callers here, so none needs time to notice.
    SHUTDOWN_DELAY_MS: process.env.SHUTDOWN_DELAY_MS || '0',
    HOST: process.env.HOST || '127.0.0.1',
    TALLY_ADMIN_KEY: process.env.TALLY_ADMIN_KEY || (await secretIn(join(home, 'admin-key'), key('admin'))),
    TALLY_SERVICE_KEY: process.env.TALLY_SERVICE_KEY || (await secretIn(join(home, 'service-key'), key('service'))),
    USAGE_INGEST_URL: addressOf(1),
    METRICS_ENGINE_URL: addressOf(2),
    ANALYTICS_API_URL: addressOf(3),
  };
}

/** Prints the key only when it was just generated: output of each start ends up in logs. */
function whereAdminKeyIs(env) {
  if (process.env.TALLY_ADMIN_KEY) return 'TALLY_ADMIN_KEY';
  const file = join(home, 'admin-key');
  return hadAdminKey ? `in ${file}` : `${env.TALLY_ADMIN_KEY} (${file})`;
}

function watchSources() {
  const build = startProcess({
    name: 'build',
    command: join(ROOT, 'node_modules', '.bin', 'turbo'),
    args: ['watch', 'build', '--output-logs=errors-only'],
    env: toolEnv(),
    cwd: ROOT,
    logFile: join(home, 'logs', 'build.log'),
  });
  undo.push(() => build.end('SIGTERM'));
}

function pidFileOf(name) {
  return join(home, 'run', `${name}.pid`);
}

/** Resolves when everything stops; throws if a service cannot start with these settings. */
async function runServices(env) {
  const running = new Map();
  undo.push(() => Promise.all(SERVICES.map((name) => endService(name, running.get(name)))));
  const isHopeless = (how) => how === UNUSABLE_SETTINGS && !ready;
  const watch = async ([index, name]) => {
    const start = async () => {
      const service = startProcess({
        name,
        command: process.execPath,
        args: [...(isDev ? ['--watch'] : []), mainOf(name)],
        env: { ...env, PORT: String(portBase + index) },
        cwd: ROOT,
        logFile: join(home, 'logs', `${name}.log`),
      });
      if (service.pid) rememberPid(pidFileOf(name), service.pid);
      running.set(name, service);
    };
    await start();
    await keepAlive({ name, start, current: () => running.get(name), signal: watching, isHopeless });
  };
  await Promise.all([...SERVICES.entries()].map(watch));
}

async function endService(name, service) {
  await service?.end('SIGTERM', STOP_DEADLINE_MS);
  await rm(pidFileOf(name), { force: true });
}

async function allReady() {
  const deadline = Date.now() + READY_DEADLINE_MS;
  const waiting = new Set(SERVICES.keys());
  for (;;) {
    const answers = await Promise.all([...waiting].map(async (index) => [index, await isReady(index)]));
    for (const [index, ready] of answers) if (ready) waiting.delete(index);
    watching.throwIfAborted();
    if (waiting.size === 0) return;
    if (Date.now() > deadline) {
      const missing = [...waiting].map((index) => SERVICES[index]).join(', ');
      throw new Error(`not ready after ${READY_DEADLINE_MS / 1000} s: ${missing}; see ${join(home, 'logs')}`);
    }
    await wait(50);
  }
}

function isReady(index) {
  const soon = AbortSignal.any([signal, AbortSignal.timeout(2_000)]);
  return fetch(`${addressOf(index)}/readyz`, { signal: soon }).then(
    (response) => response.status === 200,
    () => false,
  );
}
