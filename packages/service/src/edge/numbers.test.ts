import { Quantity } from '@tally/contracts';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { numbersOf } from './numbers.ts';

const Answer = z.object({
  key: z.string(),
  value: Quantity.nullable(),
  rows: z.array(z.object({ id: z.string(), cost: Quantity.optional() })),
  byType: z.record(z.string(), Quantity),
});

test('makes numbers of quantities only, at any depth', () => {
  const answer = { key: '7', value: null, rows: [{ id: '8', cost: '0.5' }, { id: '9' }], byType: { seats: '3' } };
  expect(numbersOf(Answer)!(answer)).toEqual({
    key: '7',
    value: null,
    rows: [{ id: '8', cost: 0.5 }, { id: '9' }],
    byType: { seats: 3 },
  });
  expect(numbersOf(z.object({ key: z.string() }))).toBeUndefined();
});

test.each(['9007199254740993', '12086457.298363101', '0.1234567890123456789', '1000000000000000000000'])(
  'leaves %s a string',
  (text) => {
    expect(numbersOf(Quantity)!(text)).toBe(text);
  },
);

test.each([
  ['0.000000001', 1e-9],
  ['-12.5', -12.5],
  ['9007199254740992', 2 ** 53],
])('makes a number of %s', (text, number) => {
  expect(numbersOf(Quantity)!(text)).toBe(number);
});

test('makes numbers of all whole numbers up to 2^53 and never of two quantities the same one', () => {
  const units = fc.bigInt({ min: -(2n ** 60n), max: 2n ** 60n });
  fc.assert(
    fc.property(units, (whole) => {
      const [one, next] = [whole, whole + 1n].map((each) => numbersOf(Quantity)!(String(each)));
      expect(one).not.toBe(next);
      if (whole <= 2n ** 53n && whole >= -(2n ** 53n)) expect(one).toBe(Number(whole));
    }),
  );
});
