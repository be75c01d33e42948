import { setTimeout as wait } from 'node:timers/promises';

/** Long enough for a service to start on a slow, busy machine. */
const DEADLINE_MS = 120_000;

/** Waits until a condition holds. After two minutes, throws an error that names the condition. */
export async function until(what: string, holds: () => Promise<boolean> | boolean, everyMs = 50): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited ${DEADLINE_MS / 1000} s for: ${what}`);
    await wait(everyMs);
  }
}
