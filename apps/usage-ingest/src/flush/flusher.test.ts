import { expect, test } from 'vitest';
import { caughtUp } from './flusher.ts';

/** A flush whose lag is the next of these at each look. */
function flushOf(...lags: number[]) {
  const looks: number[] = [];
  const lagMs = async () => {
    looks.push(lags[looks.length]!);
    return looks.at(-1)!;
  };
  return { lagMs, looks };
}

test('comparisons wait until the flush has caught up', async () => {
  const flush = flushOf(60_000, 10_001, 10_000);
  await caughtUp(flush, 3_600_000, () => false);
  expect(flush.looks).toEqual([60_000, 10_001, 10_000]);
});

test('comparisons wait neither longer than they may, nor for a process that stops', async () => {
  const flush = flushOf(60_000, 60_000);
  await caughtUp(flush, 1, () => false);
  await caughtUp(flush, 3_600_000, () => flush.looks.length > 1);
  expect(flush.looks).toEqual([60_000, 60_000]);
});
