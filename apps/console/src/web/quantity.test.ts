import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  add,
  change,
  format,
  parseFormatted,
  percentage,
  quantityOf,
  rateText,
  roundUpToCents,
  scale,
  unitsOf,
} from './quantity.ts';

/** Quantities as the API returns them: in the shortest form, with at most 9 decimals. */
const quantities = fc.bigInt({ min: -(10n ** 28n), max: 10n ** 28n }).map(quantityOf);

describe('a quantity on screen', () => {
  test('parses back to exactly what the API answered', () => {
    fc.assert(
      fc.property(quantities, fc.constantFrom('money', 'count', 'percent'), (quantity, kind) => {
        expect(parseFormatted(format(quantity, kind as 'money'))).toBe(quantity);
      }),
    );
  });

  test('is an integer of billionths and back', () => {
    fc.assert(
      fc.property(quantities, (quantity) => {
        expect(quantityOf(unitsOf(quantity))).toBe(quantity);
      }),
    );
  });

  test('is added exactly', () => {
    fc.assert(
      fc.property(fc.array(quantities), (all) => {
        expect(unitsOf(add(...all))).toBe(all.reduce((sum, each) => sum + unitsOf(each), 0n));
      }),
    );
    expect(add('0.1', '0.2')).toBe('0.3');
  });

  test.each([
    ['1234567.890000001', 'money', '$1,234,567.890000001'],
    ['12.5', 'money', '$12.50'],
    ['0', 'money', '$0.00'],
    ['-0.1', 'money', '−$0.10'],
    ['9007199254740993', 'count', '9,007,199,254,740,993'],
    ['98.6', 'percent', '98.6%'],
  ] as const)('%s as %s is %s', (quantity, kind, text) => expect(format(quantity, kind)).toBe(text));
});

test('percentages are rounded to one decimal, half away from zero', () => {
  expect(percentage('1', '3')).toBe('33.3');
  expect(percentage('1', '800')).toBe('0.1');
  expect(percentage('1', '0')).toBeNull();
  expect(change('150', '100')).toBe('50.0');
  expect(change('50', '100')).toBe('-50.0');
  expect(change('5', '0')).toBeNull();
});

test('estimates are rounded up to cents', () => {
  expect(roundUpToCents('1.000000001')).toBe('1.01');
  expect(roundUpToCents('1.01')).toBe('1.01');
  expect(roundUpToCents('-1.005')).toBe('-1');
  expect(scale('10', 30, 15)).toBe('20');
});

test('a success rate has two decimals, and 100% is all', () => {
  expect([null, 0, 98.1, 99.99, 100].map(rateText)).toEqual(['–', '0.00%', '98.10%', '99.99%', '100%']);
});
