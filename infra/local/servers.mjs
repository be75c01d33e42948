import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { makeHome } from './home.mjs';
import { privatePostgres } from './postgres.mjs';
import { endProcess, signalProcess } from './processes.mjs';
import { privateRedis } from './redis.mjs';

/**
 * Starts the private Postgres and the private Redis of a home, or only those named. `durable: false` is for tests.
 * The returned handles can be killed and started again at the same address, which is what crash tests do.
 */
export async function startServers({ home, durable = true, only = ['postgres', 'redis'] }) {
  await makeHome(home);
  await mkdir(join(home, 'run'), { recursive: true });
  const make = { postgres: privatePostgres, redis: privateRedis };
  const handles = await Promise.all(only.map(async (name) => handleOf(await make[name]({ home, durable }))));
  const [postgres, redis] = ['postgres', 'redis'].map((name) => handles.find((handle) => handle.name === name));
  try {
    await Promise.all(handles.map((handle) => handle.start()));
  } catch (error) {
    await Promise.all(handles.map((handle) => handle.stop()));
    throw error;
  }
  return {
    postgres,
    redis,
    databaseUrl: postgres?.url,
    redisUrl: redis?.url,
    handles,
    async stop() {
      await Promise.all(handles.map((handle) => handle.stop()));
    },
    /** Stops, and removes what is kept outside of the home. */
    async remove() {
      await Promise.all(handles.map((handle) => handle.stop()));
      await Promise.all(handles.map((handle) => handle.remove()));
    },
  };
}

function handleOf(server) {
  let running;
  return {
    name: server.name,
    url: server.url,
    get pid() {
      return running?.child.pid;
    },
    /** Resolves when the process that runs now has ended. */
    get exited() {
      return running?.exited;
    },
    tail: () => running?.tail() ?? '',
    async start() {
      running = await server.start();
    },
    kill(signal = 'SIGKILL') {
      if (running?.child.pid) signalProcess(running.child.pid, signal);
      return running?.exited;
    },
    async stop() {
      if (running?.child.pid) await endProcess(running.child.pid, server.stopSignal);
    },
    remove: () => server.remove(),
  };
}
