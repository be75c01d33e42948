import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../../infra/local/ports.mjs';
import { assertBuilt } from './built.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const READY_DEADLINE_MS = 120_000;

export type ServiceProcess = {
  readonly url: string;
  /** The running process. */
  readonly pid: number;
  /** Ends it like `kill -9`; resolves once it is gone. */
  kill(): Promise<void>;
  /** Asks it to end, and resolves with its exit code. */
  stop(): Promise<number | null>;
  /** Starts it again on the same port. Resolves when it is ready; with `live` when it listens. */
  start(until?: 'ready' | 'live'): Promise<void>;
};

/** A built service as a real process on a free port, or on the `PORT` of `env`. */
export async function startServiceProcess(app: string, env: Record<string, string>): Promise<ServiceProcess> {
  assertBuilt(`apps/${app}`);
  const port = env.PORT ?? (await freePort());
  const url = `http://127.0.0.1:${port}`;
  let child: ChildProcess | undefined;
  let output = '';

  const start = async (until: 'ready' | 'live' = 'ready') => {
    output = '';
    child = spawn(process.execPath, [`${ROOT}/apps/${app}/dist/main.js`], {
      env: { PATH: process.env.PATH ?? '', LOG_LEVEL: 'warn', ...env, PORT: String(port) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const keep = (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-5000);
    };
    child.stdout?.on('data', keep);
    child.stderr?.on('data', keep);
    const deadline = Date.now() + READY_DEADLINE_MS;
    while (!(await answers(`${url}/${until}z`))) {
      if (child.exitCode !== null) throw new Error(`${app} ended with ${child.exitCode}:\n${output}`);
      if (Date.now() > deadline) throw new Error(`${app} is not ready:\n${output}`);
      // A call takes CPU from the start that it waits for.
      await wait(50);
    }
  };
  const end = async (signal: NodeJS.Signals) => {
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
    return child.exitCode;
  };

  await start();
  return {
    url,
    get pid() {
      return child!.pid!;
    },
    kill: async () => void (await end('SIGKILL')),
    stop: () => end('SIGTERM'),
    start,
  };
}

const answers = (url: string) =>
  fetch(url, { signal: AbortSignal.timeout(1_000) }).then(
    (response) => response.ok,
    () => false,
  );
