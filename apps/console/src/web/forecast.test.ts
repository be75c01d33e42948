import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { forecast } from './forecast.ts';
import { add, quantityOf, unitsOf } from './quantity.ts';
import { addDays, daysOfMonth } from './time.ts';

describe('the forecast of a month', () => {
  test('adds the mean of the days before today for each day after it to the spend so far', () => {
    const byDay = [
      { date: '2026-11-01', cost: '2' },
      { date: '2026-11-25', cost: '23' },
      { date: '2026-11-26', cost: '98.58' },
    ];
    expect(forecast({ spent: '123.58', byDay, today: '2026-11-26' })).toEqual({
      estimate: '127.58',
      closedDays: 25,
      daysLeft: 4,
    });
  });

  test.each([
    ['on the first day', '2026-11-01', [{ date: '2026-11-01', cost: '9' }]],
    ['when no day before today has spend', '2026-11-03', [{ date: '2026-11-03', cost: '9' }]],
    ['when adjustments exceed the spend of the days before today', '2026-11-03', [{ date: '2026-11-02', cost: '-9' }]],
    ['on the last day', '2026-11-30', [{ date: '2026-11-02', cost: '9' }]],
  ])('is absent %s', (_name, today, byDay) => {
    expect(forecast({ spent: add(...byDay.map(({ cost }) => cost)), byDay, today })).toBeNull();
  });

  test('is never below the spend so far', () => {
    const { startDate } = daysOfMonth('2026-11');
    const costs = fc.array(fc.bigInt({ min: 0n, max: 10n ** 20n }).map(quantityOf), { minLength: 2, maxLength: 29 });
    fc.assert(
      fc.property(costs, (each) => {
        const byDay = each.map((cost, index) => ({ date: addDays(startDate, index), cost }));
        const spent = add(...each);
        const found = forecast({ spent, byDay, today: addDays(startDate, each.length - 1) });
        if (found) expect(unitsOf(found.estimate) >= unitsOf(spent)).toBe(true);
      }),
    );
  });

  test('is rounded up to cents', () => {
    const byDay = [{ date: '2026-11-28', cost: '0.000000027' }];
    expect(forecast({ spent: '10.000000028', byDay, today: '2026-11-29' })).toMatchObject({ estimate: '10.01' });
  });
});
