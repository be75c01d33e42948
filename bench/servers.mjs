import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
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

/** Starts a program of the repository as a process of its own, listening on a free port; `work` gets its address. */
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
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const url = `http://127.0.0.1:${port}`;
  while (
    !(await fetch(`${url}/readyz`).then(
      (r) => r.ok,
      () => false,
    ))
  )
    await new Promise((done) => setTimeout(done, 30));
  try {
    return await work({ url, port, pid: child.pid });
  } finally {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
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
