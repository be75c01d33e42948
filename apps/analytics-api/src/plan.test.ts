import { addDays, countDays, eachDay } from '@tally/contracts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Needs, needsOf, planOf, planSeries } from './plan.ts';

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
    told(planOf({ startDate, endDate }, { entities: true, days: false, sums: true, ...(today && { today }) }));

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

  test('what is still to come is taken away for nothing', () => {
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

test('the parts of a plan, those taken away taken away, cover every day of the range once', () => {
  const range = fc.tuple(fc.integer({ min: 0, max: 1500 }), fc.integer({ min: 0, max: 1100 }));
  const today = fc.option(fc.integer({ min: 0, max: 2600 }), { nil: undefined });
  const needs = fc.constantFrom<Pick<Needs, 'entities' | 'platform'>>(
    ...[{ entities: true }, { entities: false }],
    ...[
      { entities: false, platform: 'models' as const },
      { entities: true, platform: 'users' as const },
    ],
  );
  fc.assert(
    fc.property(
      range,
      needs,
      fc.boolean(),
      fc.boolean(),
      today,
      ([from, length], { entities, platform }, days, sums, at) => {
        const startDate = addDays('2023-01-01', from);
        const endDate = addDays(startDate, length);
        const needs = { entities, platform, days, sums, ...(at !== undefined && { today: addDays('2023-01-01', at) }) };
        const plan = planOf({ startDate, endDate }, needs);
        const times = new Map<string, number>();
        for (const part of plan)
          for (const day of eachDay(part.startDate, part.endDate))
            times.set(day, (times.get(day) ?? 0) + (part.less ? -1 : 1));
        expect([...times].filter(([, count]) => count !== 0).sort()).toEqual(
          eachDay(startDate, endDate).map((day) => [day, 1]),
        );
        if (!sums) expect(plan.some((part) => part.less)).toBe(false);
        const edges = plan.filter((part) => part.cube === 'usage_daily');
        const daysRead = edges.reduce((sum, edge) => sum + countDays(edge.startDate, edge.endDate), 0);
        if (entities && !days && at === undefined) expect(daysRead).toBeLessThanOrEqual(sums ? 32 : 60);
      },
    ),
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
