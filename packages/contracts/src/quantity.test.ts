import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { formatCost, formatQuantity, parseQuantity, parseSignedQuantity, percentOf, unitsText } from './quantity.ts';

const units = fc.bigInt({ min: 0n, max: 10n ** 18n });

describe('quantities', () => {
  test('parses printed quantities back to the unit, for cost and for whole numbers', () => {
    fc.assert(
      fc.property(units, fc.constantFrom('cost', 'prompt_tokens'), (value, type) => {
        expect(parseQuantity(type, formatQuantity(type, value))).toBe(value);
      }),
    );
  });

  test('units as text are the units', () => {
    fc.assert(
      fc.property(units, fc.constantFrom('cost', 'prompt_tokens'), (value, type) => {
        expect(unitsText(type, formatQuantity(type, value))).toBe(value.toString());
      }),
    );
    expect(unitsText('cost', '0.10')).toBe('100000000');
  });

  test('adjustments carry their sign there and back', () => {
    fc.assert(
      fc.property(units, (value) => {
        expect(parseSignedQuantity('cost', formatCost(-value))).toBe(-value);
      }),
    );
  });

  test.each([
    ['0.0023', 2_300_000n],
    ['0.000000001', 1n],
    ['1000000', 10n ** 15n],
    ['0.10', 100_000_000n],
    ['0', 0n],
  ])('cost %s is %s nano-USD', (text, value) => {
    expect(parseQuantity('cost', text)).toBe(value);
  });

  test.each(['', '-1', '1.5', '1e3', '01', ' 1', '1 ', '+1', 'NaN', '٣', '0x10', '1_000', '1,000'])(
    '"%s" is no whole number',
    (text) => {
      expect(parseQuantity('queries', text)).toBeUndefined();
    },
  );

  test.each(['0.0000000001', '.5', '1.', '-0.5', '1e-5', '0.0.1'])('"%s" is no cost', (text) => {
    expect(parseQuantity('cost', text)).toBeUndefined();
  });

  test('cost is printed as the shortest exact decimal', () => {
    expect(formatCost(1_615_000n)).toBe('0.001615');
    expect(formatCost(10n ** 9n)).toBe('1');
    expect(formatCost(-1n)).toBe('-0.000000001');
    expect(formatCost(0n)).toBe('0');
  });

  test('a percentage has two decimals, and is null of nothing', () => {
    expect(percentOf(145n, 150n)).toBe(96.67);
    expect(percentOf(1n, 3n)).toBe(33.33);
    expect(percentOf(0n, 7n)).toBe(0);
    expect(percentOf(99_997n, 100_000n)).toBe(99.99);
    expect(percentOf(100_000n, 100_000n)).toBe(100);
    expect(percentOf(0n, 0n)).toBeNull();
  });
});
