import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from '../infra/local/ports.mjs';
import { startServers } from '../infra/local/servers.mjs';
import { migrate } from '../packages/db/dist/index.js';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const KEY = 'the-admin-key-of-the-bench';

/** Starts private servers that sync every write, migrated; removes them after `work`. */
export async function withServers(work) {
  const home = await mkdtemp(join(tmpdir(), 'tally-bench-'));
  const servers = await startServers({ home, durable: true });
  try {
    await migrate(servers.databaseUrl);
    return await work(servers);
  } finally {
    await servers.remove();
    await rm(home, { recursive: true, force: true });
  }
}

/** Starts a built service as a process of its own, like in production. */
export const withService = (app, servers, settings, work) =>
  withProgram(join('apps', app, 'dist/main.js'), servers, settings, work);

/** Far beyond any honest start. */
const READY_DEADLINE_MS = 300_000;

/**
 * Starts a program of the repository as a process of its own, listening on a free port; `work` gets its address. Throws
 * with the program's last output if it ends before it is ready, or is not ready after five minutes.
 */
export async function withProgram(program, servers, settings, work) {
  const port = await freePort();
  const { nodeArgs = [], ...env } = settings;
  const child = spawn(process.execPath, [...nodeArgs, join(ROOT, program)], {
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: servers.databaseUrl,
      REDIS_URL: servers.redisUrl,
      TALLY_ADMIN_KEY: KEY,
      LOG_LEVEL: 'error',
      PORT: String(port),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of ['stdout', 'stderr'])
    child[stream].on('data', (chunk) => {
      output = (output + chunk).slice(-5_000);
      process[stream].write(chunk);
    });
  const exited = once(child, 'exit');
  const hasExited = () => child.exitCode !== null || child.signalCode !== null;
  const url = `http://127.0.0.1:${port}`;
  const isReady = () =>
    fetch(`${url}/readyz`, { signal: AbortSignal.timeout(5_000) }).then(
      (response) => response.ok,
      () => false,
    );
  try {
    for (const deadline = Date.now() + READY_DEADLINE_MS; !(await isReady()); await wait(30)) {
      if (hasExited()) throw new Error(`${program} ended with ${child.exitCode ?? child.signalCode}:\n${output}`);
      if (Date.now() > deadline) throw new Error(`${program} is not ready after ${READY_DEADLINE_MS} ms:\n${output}`);
    }
    return await work({ url, port, pid: child.pid });
  } finally {
    if (!hasExited()) {
      child.kill('SIGTERM');
      await exited;
    }
  }
}

/** Measures INCRBY, or another command, on the same Redis, with its own benchmark: the limit. Operations per second. */
export function redisIncrBy(
  redisUrl,
  { clients = 50, pipeline = 1, command = ['INCRBY', 'bench:__rand_int__', '1'] } = {},
) {
  const { hostname, port, password } = new URL(redisUrl);
  const args = [
    '-h',
    hostname,
    '-p',
    port,
    '-a',
    password,
    '-n',
    '200000',
    '-c',
    String(clients),
    '-P',
    String(pipeline),
    '-r',
    '1000',
    '--csv',
  ];
  const { stdout } = spawnSync('redis-benchmark', [...args, ...command], { encoding: 'utf8' });
  return Number(new RegExp(`"${command[0]}[^"]*","([\\d.]+)"`).exec(stdout)?.[1]);
}

export const machine = () =>
  `${cpus().length} cores (${cpus()[0].model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}`;
