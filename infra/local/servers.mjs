import { spawn } from 'node:child_process';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { makeHome } from './home.mjs';
import { privatePostgres } from './postgres.mjs';
import { privateRedis } from './redis.mjs';

/** How long temporary failures are retried. */
const RETRY_MS = 20_000;

/**
 * Starts the private Postgres and Redis of a home, or only the named ones. `durable: false` is for tests. The returned
 * handles can be killed and started again at the same address, for crash tests. Aborting `signal` during the start
 * stops them and rejects.
 */
export async function startServers({ home, durable = true, only = ['postgres', 'redis'], signal }) {
  const place = await makeHome(home);
  const reaper = durable ? undefined : reapWhenWeAreGone(place);
  const make = { postgres: privatePostgres, redis: privateRedis };
  const servers = await Promise.all(only.map((name) => make[name]({ home: place, durable })));
  signal?.throwIfAborted();
  const handles = servers.map(handleOf);
  const [postgres, redis] = ['postgres', 'redis'].map((name) => handles.find((handle) => handle.name === name));
  const stop = async () => void (await Promise.all(handles.map((handle) => handle.stop())));
  signal?.addEventListener('abort', stop, { once: true });
  try {
    await Promise.all(handles.map((handle) => handle.start()));
    signal?.throwIfAborted();
  } catch (error) {
    await stop();
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
  return {
    postgres,
    redis,
    databaseUrl: postgres?.url,
    /** For what the services' role may not do: roles, settings of the server, files. */
    superuserUrl: servers.find(({ name }) => name === 'postgres')?.superuserUrl,
    redisUrl: redis?.url,
    handles,
    stop,
    /** Stops, and removes what is stored outside of the home. */
    async remove() {
      await stop();
      await Promise.all(servers.map((server) => server.remove()));
      reaper?.kill();
    },
  };
}

function reapWhenWeAreGone(home) {
  const script = fileURLToPath(new URL('reaper.mjs', import.meta.url));
  const child = spawn(process.execPath, [script, home], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  child.unref();
  child.stdin.unref();
  child.stdin.on('error', () => {});
  return child;
}

function handleOf(server) {
  let running;
  let starts = 0;
  const handle = {
    name: server.name,
    url: server.url,
    get pid() {
      return running?.pid;
    },
    /** Resolves when the current process has ended. */
    get exited() {
      return running?.exited;
    },
    tail: () => running?.tail() ?? '',
    /** Starts it at the same address, after ending any earlier process; resolves when it accepts commands. */
    async start() {
      const mine = ++starts;
      for (const deadline = Date.now() + RETRY_MS; ; await wait(100)) {
        await server.endLeftovers();
        if (mine !== starts) throw new Error(`${server.name} was stopped while it started`);
        running = server.launch();
        try {
          return await server.ready(running);
        } catch (error) {
          if (!server.isPassing?.(error) || Date.now() > deadline) throw error;
        }
      }
    },
    async restart() {
      await handle.stop();
      await handle.start();
    },
    /** Ends it like a crash; resolves once it is gone. */
    kill(signal = 'SIGKILL') {
      running?.kill(signal);
      return running?.exited;
    },
    async stop() {
      starts++;
      await running?.end(server.stopSignal);
    },
  };
  return handle;
}
