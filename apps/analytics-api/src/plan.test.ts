import { addDays, eachDay } from '@tally/contracts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { knownRows, type Needs, needsOf, planOf, planSeries, type RowsOf, rowsIn, typicalRows } from './plan.ts';

const told = (plan: ReturnType<typeof planOf>) =>
  plan.map((part) => `${part.less ? 'less ' : ''}${part.cube} ${part.startDate}..${part.endDate}`);
const parts = (startDate: string, endDate: string, entities = true, days = false) =>
  told(planOf({ startDate, endDate }, { entities, days }));

test('a question about users reads whole years and months from their cubes and the edges from days', () => {
  expect(parts('2025-11-23', '2026-11-22')).toEqual([
    'usage_daily 2025-11-23..2025-11-30',
    'usage_monthly 2025-12-01..2026-10-31',
    'usage_daily 2026-11-01..2026-11-22',
  ]);
  expect(parts('2022-12-31', '2025-02-28')).toEqual([
    'usage_daily 2022-12-31..2022-12-31',
    'usage_yearly 2023-01-01..2024-12-31',
    'usage_monthly 2025-01-01..2025-02-28',
  ]);
  expect(parts('2026-02-01', '2026-02-28')).toEqual(['usage_monthly 2026-02-01..2026-02-28']);
  expect(parts('2024-02-01', '2024-02-28')).toEqual(['usage_daily 2024-02-01..2024-02-28']);
  expect(parts('2026-01-02', '2026-02-27')).toEqual(['usage_daily 2026-01-02..2026-02-27']);
});

describe('where sums alone are asked for', () => {
  const sums = (startDate: string, endDate: string, today?: string) =>
    told(planOf({ startDate, endDate }, { entities: true, days: false, sums: true }, typicalRows(today)));

  test('an edge that is most of its month is the month less its other days', () => {
    expect(sums('2026-01-03', '2026-01-29')).toEqual([
      'usage_monthly 2026-01-01..2026-01-31',
      'less usage_daily 2026-01-01..2026-01-02',
      'less usage_daily 2026-01-30..2026-01-31',
    ]);
    expect(sums('2026-01-02', '2026-02-27')).toEqual([
      'usage_monthly 2026-01-01..2026-02-28',
      'less usage_daily 2026-01-01..2026-01-01',
      'less usage_daily 2026-02-28..2026-02-28',
    ]);
    expect(sums('2026-01-25', '2026-02-05')).toEqual(['usage_daily 2026-01-25..2026-02-05']);
  });

  test('an edge that is most of its year is the year less its other months, and their days are read after all', () => {
    expect(sums('2025-03-01', '2025-12-31')).toEqual([
      'usage_yearly 2025-01-01..2025-12-31',
      'less usage_monthly 2025-01-01..2025-02-28',
    ]);
    expect(sums('2025-02-27', '2025-12-31')).toEqual([
      'usage_yearly 2025-01-01..2025-12-31',
      'less usage_monthly 2025-01-01..2025-02-28',
      'usage_daily 2025-02-27..2025-02-28',
    ]);
  });

  test('an edge is read from what has fewer rows', () => {
    const months = new Map(
      Array.from({ length: 24 }, (_, month) => [
        `${2025 + Math.floor(month / 12)}-${`${(month % 12) + 1}`.padStart(2, '0')}-01`,
        100,
      ]),
    );
    // Users active only in November 2026: the year has their rows, too.
    months.set('2026-11-01', 5_000);
    const known = {
      years: new Map([
        ['2025-01-01', 100],
        ['2026-01-01', 5_100],
      ]),
      months,
      ...NO_QUARTERS,
      requests: new Map<string, number>(),
    };
    const plan = (startDate: string, endDate: string, requests: [string, number][] = []) =>
      told(
        planOf(
          { startDate, endDate },
          { entities: true, days: false, sums: true },
          knownRows({ ...known, requests: new Map(requests) }),
        ),
      );
    expect(plan('2025-11-01', '2026-10-31')).toEqual(['usage_monthly 2025-11-01..2026-10-31']);
    expect(plan('2025-02-01', '2026-12-31')).toEqual([
      'usage_yearly 2025-01-01..2026-12-31',
      'less usage_monthly 2025-01-01..2025-01-31',
    ]);
    // A busy day among quiet ones is left out, whichever part of the month it is in.
    expect(plan('2026-11-01', '2026-11-20', [['2026-11-26', 9_000]])).toEqual(['usage_daily 2026-11-01..2026-11-20']);
    expect(
      plan('2026-11-01', '2026-11-26', [
        ['2026-11-02', 4_000],
        ['2026-11-26', 4_000],
      ]),
    ).toEqual(['usage_monthly 2026-11-01..2026-11-30', 'less usage_daily 2026-11-27..2026-11-30']);
  });

  test('a day has at most as many rows as requests, and as its month', () => {
    const rowsOf = knownRows({
      years: new Map([['2026-01-01', 9]]),
      months: new Map([['2026-11-01', 5]]),
      ...NO_QUARTERS,
      requests: new Map([
        ['2026-11-01', 100],
        ['2026-11-02', 2],
        ['2026-11-03', -1],
        ['2026-12-01', 3],
      ]),
    });
    expect(
      ['2026-11-01', '2026-11-02', '2026-11-03', '2026-11-04', '2026-12-01'].map((day) => rowsOf('day', day)),
    ).toEqual([5, 2, 0, 0, 0]);
    expect([rowsOf('month', '2026-11-01'), rowsOf('month', '2026-10-01'), rowsOf('year', '2026-01-01')]).toEqual([
      5, 0, 9,
    ]);
  });

  test('an edge in the middle of a month is read from its quarters, once they are complete', () => {
    const periods = (starts: (month: string) => string[]) =>
      new Map(
        Array.from({ length: 24 }, (_, at) => `${2025 + Math.floor(at / 12)}-${`${(at % 12) + 1}`.padStart(2, '0')}`)
          .flatMap(starts)
          .map((day) => [day, 100]),
      );
    const plan = (startDate: string, endDate: string, quartersTo = '9999-12-01', sums = true) =>
      told(
        planOf(
          { startDate, endDate },
          { entities: true, days: false, sums },
          knownRows({
            years: new Map([
              ['2025-01-01', 100],
              ['2026-01-01', 100],
            ]),
            months: periods((month) => [`${month}-01`]),
            quarterMonths: periods((month) => ['01', '09', '16', '23'].map((day) => `${month}-${day}`)),
            quartersTo,
            requests: periods((month) => eachDay(`${month}-01`, `${month}-28`)),
          }),
        ),
      );
    expect(plan('2025-12-16', '2026-11-15')).toEqual([
      'usage_quarter_months 2025-12-16..2025-12-31',
      'usage_yearly 2026-01-01..2026-12-31',
      'less usage_quarter_months 2026-11-16..2026-11-30',
      'less usage_monthly 2026-12-01..2026-12-31',
    ]);
    // Within a quarter, days are added or subtracted, whichever are fewer.
    expect(plan('2026-03-02', '2026-03-17')).toEqual([
      'usage_quarter_months 2026-03-01..2026-03-15',
      'less usage_daily 2026-03-01..2026-03-01',
      'usage_daily 2026-03-16..2026-03-17',
    ]);
    expect(plan('2026-03-02', '2026-03-17', '9999-12-01', false)).toEqual([
      'usage_daily 2026-03-02..2026-03-08',
      'usage_quarter_months 2026-03-09..2026-03-15',
      'usage_daily 2026-03-16..2026-03-17',
    ]);
    // Quarters that are not complete yet are not chosen.
    expect(plan('2026-03-01', '2026-03-15', '2026-03-09', false)).toEqual([
      'usage_quarter_months 2026-03-01..2026-03-08',
      'usage_daily 2026-03-09..2026-03-15',
    ]);
    expect(plan('2026-03-02', '2026-03-15', '2026-02-23')).toEqual(['usage_daily 2026-03-02..2026-03-15']);
  });

  test('subtracts days that are still to come at no cost', () => {
    expect(sums('2026-03-01', '2026-03-05', '2026-03-05')).toEqual([
      'usage_monthly 2026-03-01..2026-03-31',
      'less usage_daily 2026-03-06..2026-03-31',
    ]);
    expect(sums('2026-01-01', '2026-11-23', '2026-11-23')).toEqual([
      'usage_yearly 2026-01-01..2026-12-31',
      'less usage_daily 2026-11-24..2026-11-30',
      'less usage_monthly 2026-12-01..2026-12-31',
    ]);
  });
});

test('without users and keys the model rollups answer, and days are read where days are told apart', () => {
  expect(parts('2025-11-23', '2026-01-02', false)).toEqual([
    'usage_daily_models 2025-11-23..2025-11-30',
    'usage_monthly_models 2025-12-01..2025-12-31',
    'usage_daily_models 2026-01-01..2026-01-02',
  ]);
  expect(parts('2025-01-01', '2025-12-31', false, true)).toEqual(['usage_daily_models 2025-01-01..2025-12-31']);
  expect(parts('2025-01-01', '2025-12-31', true, true)).toEqual(['usage_daily 2025-01-01..2025-12-31']);
});

test('over all merchants the rollups of all answer, by models or by users alone', () => {
  const of = (platform: 'models' | 'users', days = false) =>
    told(
      planOf({ startDate: '2025-11-30', endDate: '2025-12-31' }, { entities: platform === 'users', platform, days }),
    );
  expect(of('models')).toEqual([
    'usage_platform_daily 2025-11-30..2025-11-30',
    'usage_platform_monthly 2025-12-01..2025-12-31',
  ]);
  expect(of('models', true)).toEqual(['usage_platform_daily 2025-11-30..2025-12-31']);
  expect(of('users')).toEqual(['usage_daily 2025-11-30..2025-11-30', 'usage_platform_users 2025-12-01..2025-12-31']);
  expect(of('users', true)).toEqual(['usage_daily 2025-11-30..2025-12-31']);
});

test('a query needs every dimension that it groups or filters by', () => {
  expect(needsOf({ userIds: [], apiKeys: [] }, 'model')).toEqual({ entities: false, platform: 'models' });
  expect(needsOf({ providers: ['p'] })).toEqual({ entities: false, platform: 'models' });
  expect(needsOf({}, 'user')).toEqual({ entities: true, platform: 'users' });
  expect(needsOf({ userIds: ['u'] })).toEqual({ entities: true, platform: 'users' });
  for (const question of [needsOf({ models: ['m'] }, 'user'), needsOf({ userIds: ['u'] }, 'model')])
    expect(question).toEqual({ entities: true });
  expect(needsOf({ apiKeys: ['key'] }, 'model')).toEqual({ entities: true });
  expect(needsOf({}, 'apiKey')).toEqual({ entities: true });
  expect(needsOf({}, 'merchant')).toEqual({ entities: false });
  expect(needsOf({ merchantIds: ['m'] }, 'user')).toEqual({ entities: true });
});

/** Quarters of months that cannot be read. */
const NO_QUARTERS = { quarterMonths: new Map<string, number>(), quartersTo: '0001-01-01' };

const someRange = fc
  .tuple(fc.integer({ min: 0, max: 1500 }), fc.integer({ min: 0, max: 1100 }))
  .map(([from, length]) => {
    const startDate = addDays('2023-01-01', from);
    return { startDate, endDate: addDays(startDate, length) };
  });
const someNeeds = fc
  .record({
    ...{ entities: fc.boolean(), days: fc.boolean(), sums: fc.boolean() },
    platform: fc.option(fc.constantFrom('models' as const, 'users' as const), { nil: undefined }),
  })
  .map((needs): Needs => ({ ...needs, entities: needs.platform ? needs.platform === 'users' : needs.entities }));
/** An arbitrary but stable estimate of rows. */
const someRows: fc.Arbitrary<RowsOf> = fc.oneof(
  fc
    .option(fc.integer({ min: 0, max: 2600 }), { nil: undefined })
    .map((at) => typicalRows(at === undefined ? at : addDays('2023-01-01', at))),
  fc.func(fc.integer({ min: 0, max: 1000 })),
  // Quarters of months are complete up to a day.
  fc.tuple(fc.func(fc.integer({ min: 0, max: 1000 })), fc.integer({ min: 0, max: 2600 })).map(
    ([rows, to]): RowsOf =>
      (length, first) =>
        length === 'quarterMonth' && first >= addDays('2023-01-01', to) ? Infinity : rows(length, first),
  ),
);

test('the parts of a plan, those taken away taken away, cover every day of the range once', () => {
  fc.assert(
    fc.property(someRange, someNeeds, someRows, (range, needs, rowsOf) => {
      const plan = planOf(range, needs, rowsOf);
      const times = new Map<string, number>();
      for (const part of plan)
        for (const day of eachDay(part.startDate, part.endDate))
          times.set(day, (times.get(day) ?? 0) + (part.less ? -1 : 1));
      expect([...times].filter(([, count]) => count !== 0).sort()).toEqual(
        eachDay(range.startDate, range.endDate).map((day) => [day, 1]),
      );
      if (!needs.sums) expect(plan.some((part) => part.less)).toBe(false);
    }),
  );
});

test('the rows of a plan are those of all its periods, what is taken away among them', () => {
  const rowsOf: RowsOf = (length) => ({ year: 1000, month: 100, quarterMonth: Infinity, day: 7 })[length];
  const plan = planOf({ startDate: '2024-03-02', endDate: '2026-02-01' }, { entities: true, days: false }, rowsOf);
  expect(told(plan)).toEqual([
    'usage_daily 2024-03-02..2024-03-31',
    'usage_monthly 2024-04-01..2024-12-31',
    'usage_yearly 2025-01-01..2025-12-31',
    'usage_monthly 2026-01-01..2026-01-31',
    'usage_daily 2026-02-01..2026-02-01',
  ]);
  expect(rowsIn(plan, rowsOf)).toBe(30 * 7 + 9 * 100 + 1000 + 100 + 7);
  const less = { cube: 'usage_daily', startDate: '2026-02-01', endDate: '2026-02-02', less: true } as const;
  expect(rowsIn([less, { ...less, cube: 'usage_platform_daily' }], rowsOf)).toBe(14);
});

test('a plan never reads more rows than one that takes nothing away, whatever the rows are', () => {
  fc.assert(
    fc.property(someRange, someRows, (range, rowsOf) => {
      const needs = { entities: true, days: false };
      const [best, plain] = [planOf(range, { ...needs, sums: true }, rowsOf), planOf(range, needs, rowsOf)];
      // The cost of periods themselves may decide between plans that read about the same.
      expect(rowsIn(best, rowsOf)).toBeLessThanOrEqual(rowsIn(plain, rowsOf) + 1);
    }),
  );
});

test('periods that are days of UTC read days; others quarters of an hour, or the journal for users', () => {
  const at = (time: string) => Date.parse(time);
  const utc = { starts: [at('2026-01-01T00:00Z'), at('2026-01-02T00:00Z')], end: at('2026-01-03T00:00Z') };
  const tokyo = { starts: [at('2025-12-31T15:00Z')], end: at('2026-01-01T15:00Z') };
  const cubes = (times: typeof utc, entities: boolean) => planSeries(times, { entities, days: true });
  expect(cubes(utc, false)).toEqual([{ cube: 'usage_daily_models', startDate: '2026-01-01', endDate: '2026-01-02' }]);
  expect(cubes(utc, true)[0]!.cube).toBe('usage_daily');
  expect(cubes(tokyo, false)).toEqual([
    { cube: 'usage_quarter_hours', startDate: '2025-12-31', endDate: '2026-01-01' },
  ]);
  expect(cubes(tokyo, true)[0]!.cube).toBe('usage_events');
});
