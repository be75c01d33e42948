import { formatCost, parseQuantity } from '@tally/contracts';
import { expect, test } from 'vitest';
import { trendOf } from './trend.ts';

test.each([
  ['150', '100', 50, 'up'],
  ['50', '100', -50, 'down'],
  ['100', '100.5', -0.5, 'stable'],
  ['101', '100', 1, 'stable'],
  ['99', '100', -1, 'stable'],
  ['101.004', '100', 1, 'up'],
  ['101.01', '100', 1.01, 'up'],
  ['100', '0', 100, 'up'],
  ['0', '0', 0, 'stable'],
  ['0', '100', -100, 'down'],
  ['1', '3', -66.67, 'down'],
  ['123', '100', 23, 'up'],
])('%s after %s is %d percent, %s', (current, previous, percentageChange, direction) => {
  const units = (text: string) => parseQuantity('cost', text)!;
  expect(trendOf(units(current), units(previous), formatCost)).toEqual({
    current,
    previous,
    percentageChange,
    direction,
  });
});
