export type Hooked = {
  readonly pending: boolean;
  flush(): Promise<unknown>;
  close(options?: { deadlineMs: number }): Promise<unknown>;
  /** Saves everything in memory, without waiting. */
  save(): void;
};

type Listener = (...args: never[]) => void;
type Process = {
  pid: number;
  on(event: string, listener: Listener): void;
  off(event: string, listener: Listener): void;
  listenerCount(event: string): number;
  kill(pid: number, signal: string): void;
};

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/**
 * Flushes the queue when the process ends: at SIGTERM and SIGINT (within the deadline, then the signal ends the process
 * unless others listen to it too), and when nothing is left to do. Saves it at `process.exit()`, at an uncaught
 * exception and at an unhandled rejection. Does nothing outside Node. Returns a function that removes the hooks.
 */
export function installHooks(hooked: Hooked): () => void {
  const { process } = globalThis as unknown as { process?: Process };
  if (typeof process?.on !== 'function' || typeof process.kill !== 'function') return () => {};
  let flushed = false;

  const beforeExit = () => {
    if (hooked.pending && !flushed) {
      flushed = true;
      void hooked.flush();
    } else {
      void hooked.close({ deadlineMs: 0 });
    }
  };
  const exit = () => hooked.save();
  const signals = SIGNALS.map((signal) => {
    const listener = () => {
      void hooked.close().then(() => {
        if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
      });
    };
    return [signal, listener] as const;
  });

  process.on('beforeExit', beforeExit);
  process.on('exit', exit);
  for (const [signal, listener] of signals) process.on(signal, listener);
  return () => {
    process.off('beforeExit', beforeExit);
    process.off('exit', exit);
    for (const [signal, listener] of signals) process.off(signal, listener);
  };
}
