import fc from 'fast-check';
import { expect, test } from 'vitest';
import { split } from './classes.ts';

const RUNS = Number(process.env.FC_RUNS ?? 100);
const amounts = (input: bigint, output = 0n) => ({ input, cached_input: 0n, cache_write: 0n, output, requests: 0n });

test('rounds each class and gives what is left to the greatest', () => {
  // 0.4 and 2.4 nano-USD, recorded as 3.
  expect(split({ amounts: amounts(4n, 24n), per: 10n }, 3n, 1n)).toEqual(amounts(0n, 3n));
});

test('does not split a cost that is not made of these rates', () => {
  expect(split({ amounts: amounts(40n), per: 10n }, 5n, 1n)).toBeUndefined();
  // Two events may be rounded by one nano-USD together.
  expect(split({ amounts: amounts(40n), per: 10n }, 5n, 2n)).toEqual(amounts(5n));
});

test('the classes add up to the recorded cost, whatever was rounded', () => {
  const amount = fc.bigInt(0n, 10n ** 12n);
  fc.assert(
    fc.property(
      fc.tuple(amount, amount, amount, amount, amount),
      fc.bigInt(1n, 1_000n),
      fc.bigInt(1n, 50n),
      (of, per, events) => {
        const [input, cached_input, cache_write, output, requests] = of;
        const exact = { amounts: { input, cached_input, cache_write, output, requests }, per };
        const total = of.reduce((all, each) => all + each, 0n);
        const cost = total / per;
        const parts = split(exact, cost, events * 2n)!;
        expect(Object.values(parts).reduce((all, each) => all + each, 0n)).toBe(cost);
      },
    ),
    { numRuns: RUNS },
  );
});
