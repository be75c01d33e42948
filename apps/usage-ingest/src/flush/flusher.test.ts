import { expect, test } from 'vitest';
import { caughtUp } from './flusher.ts';

/** A flush that is behind for this many looks. */
function flushBehind(times: number) {
  const flush = { looks: 0, isBehind: async () => flush.looks++ < times };
  return flush;
}

test('comparisons wait until the flush has caught up', async () => {
  const flush = flushBehind(2);
  await caughtUp(flush, 3_600_000, () => false);
  expect(flush.looks).toBe(3);
});

test('comparisons wait neither longer than they may, nor for a process that stops', async () => {
  const flush = flushBehind(10);
  await caughtUp(flush, 1, () => false);
  expect(flush.looks).toBe(1);
  await caughtUp(flush, 3_600_000, () => flush.looks > 1);
  expect(flush.looks).toBe(2);
});
