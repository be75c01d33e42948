import { setTimeout as wait } from 'node:timers/promises';

/** Long enough for a service to start on a slow, busy machine; shorter than the time-out of tests (ADR 210). */
const DEADLINE_MS = 120_000;

/** Waits until a condition is truthy and returns it. After two minutes, throws an error that names the condition. */
export async function until<T>(what: string, holds: () => Promise<T> | T, everyMs = 50): Promise<T> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await holds();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`waited ${DEADLINE_MS / 1000} s for: ${what}`);
    await wait(everyMs);
  }
}
