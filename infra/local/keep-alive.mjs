import { setTimeout as wait } from 'node:timers/promises';

const BACKOFF_MS = [250, 10_000];
/** After running this long, a process restarts with a short pause again. */
const STEADY_MS = 30_000;

/**
 * Restarts processes that died, after a pause that grows while they keep dying, until `signal` aborts. Throws with
 * their output if `isHopeless` decides from the exit that a restart cannot help.
 */
export async function keepAlive({ name, start, current, signal, isHopeless = () => false }) {
  let pause = BACKOFF_MS[0];
  for (;;) {
    const since = Date.now();
    const how = await current().exited;
    if (signal.aborted) return;
    if (isHopeless(how)) throw new Error(`${name} ended (${how}):\n${current().tail().trimEnd()}`);
    if (Date.now() - since > STEADY_MS) pause = BACKOFF_MS[0];
    console.error(`${name} ended (${how}); it is started again in ${pause} ms\n${lastLines(current().tail())}`);
    await wait(pause, undefined, { signal }).catch(() => {});
    pause = Math.min(pause * 2, BACKOFF_MS[1]);
    if (signal.aborted) return;
    await start().then(
      () => console.error(`${name} runs again`),
      (error) => signal.aborted || console.error(`${name}: ${error.message}`),
    );
  }
}

const lastLines = (text) => text.trimEnd().split('\n').slice(-5).join('\n');
