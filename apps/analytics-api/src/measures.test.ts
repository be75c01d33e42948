import { expect, test } from 'vitest';
import { measuresOf, NOTHING } from './measures.ts';

test.each([
  [10n, 1n, 0n, 90],
  [3n, 3n, 0n, 0],
  [5n, 1n, 2n, 66.67],
  // What corrections or imports leave of requests may be no part of a whole.
  [0n, 0n, 0n, null],
  [-1n, 0n, 0n, null],
  [-2n, -1n, 0n, null],
  [2n, 3n, 0n, null],
  [2n, -1n, 0n, null],
  [5n, 4n, 2n, null],
])('of %i requests, %i failed and %i of unknown outcome, the success rate is %s', (requests, failed, untold, rate) => {
  const sums = { ...NOTHING, requests, failed_requests: failed, untold_requests: untold };
  expect(measuresOf(sums).successRate).toBe(rate);
});
