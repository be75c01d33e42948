import { addDays, type Day, dayOf, type MeterDefinition, startOfDay, type UsageEntry, yearOf } from '@tally/contracts';
import { quantilesOf, RELATIVE_ERROR } from '@tally/db';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

/**
 * Random histories against a plain model: whatever is late, repeated with other content, voided, adjusted, derived,
 * folded or rebuilt, and whenever a meter was created, its answers equal those of a loop over the counted events.
 */
const RUNS = runsOf({ short: 3, long: 8 });
const DAYS = 4;

let ingest: Fixture;
let today: Day;
let runs = 0;

beforeAll(async () => {
  ingest = await startIngest();
  ingest.clock.now = Date.parse(`${dayOf(Date.now())}T23:50:00Z`);
  today = dayOf(ingest.clock.now);
});
afterAll(() => ingest.close());

const spec = fc.record({
  id: fc.integer({ min: 0, max: 11 }),
  daysAgo: fc.integer({ min: 0, max: DAYS - 1 }),
  minute: fc.integer({ min: 150, max: 1289 }),
  user: fc.constantFrom('ada', 'bob', undefined),
  region: fc.constantFrom('eu', 'us', undefined),
  type: fc.constantFrom('chat', 'batch'),
  session: fc.constantFrom('s1', 's2', 's3', undefined),
  took: fc.constantFrom('0.25', '-1.5', '12', '12.125', '1e3', undefined),
  images: fc.constantFrom(undefined, 1, 5, 40),
  failed: fc.boolean(),
  count: fc.constantFrom(1, 3),
});
type Spec = typeof spec extends fc.Arbitrary<infer T> ? T : never;

const op = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('record' as const),
      events: fc.array(spec, { minLength: 1, maxLength: 8 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('void' as const), pick: fc.nat() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('adjust' as const),
      daysAgo: fc.integer({ min: 0, max: DAYS - 1 }),
      images: fc.integer({ min: -9, max: 9 }).filter((amount) => amount !== 0),
      user: fc.constantFrom('ada', undefined),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('derive' as const, 'history' as const, 'fold' as const, 'create' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('rebuild meter' as const, 'rebuild all' as const) }) },
);
type Op = typeof op extends fc.Arbitrary<infer T> ? T : never;

const DEFINITIONS: Omit<MeterDefinition, 'key' | 'merchantId'>[] = [
  { aggregation: 'SUM', metricType: 'images', dimensions: ['user', 'property:region'] },
  { aggregation: 'SUM', metricType: 'images', filters: { status: ['failure'] }, dimensions: ['user'] },
  { aggregation: 'COUNT', eventType: 'chat', dimensions: ['property:region', 'property:session', 'user'] },
  { aggregation: 'SUM', valueProperty: 'took', scale: 2, dimensions: ['user'] },
  { aggregation: 'UNIQUE', valueProperty: 'session', dimensions: ['property:region'] },
  { aggregation: 'UNIQUE', valueProperty: 'user', filters: { 'property:region': ['eu', 'unknown'] } },
  { aggregation: 'MAX', metricType: 'images', dimensions: ['property:region'] },
  { aggregation: 'MIN', valueProperty: 'took', scale: 3, dimensions: ['user'] },
  { aggregation: 'LATEST', metricType: 'images', filters: { user: ['ada'] }, dimensions: ['property:region'] },
  { aggregation: 'PERCENTILE', metricType: 'images', dimensions: ['user'] },
];

type Counted = Spec & { key: string; at: number; date: Day };

class World {
  readonly merchantId = `m${runs++}`;
  readonly events = new Map<string, Counted>();
  readonly voided = new Set<string>();
  readonly adjustments: { date: Day; images: number; user: string | undefined }[] = [];
  created = false;

  async take(step: Op): Promise<void> {
    const { merchantId } = this;
    if (step.do === 'record') return this.record(step.events);
    if (step.do === 'void') {
      const [...keys] = this.events.keys();
      if (keys.length === 0) return;
      const { date, id } = this.events.get(keys[step.pick % keys.length]!)!;
      await ingest.admin.usage.void.mutate({ merchantId, id: `e${id}`, date, reason: 'wrong' });
      this.voided.add(`${date} ${id}`);
    }
    if (step.do === 'adjust') {
      const date = addDays(today, -step.daysAgo);
      await ingest.admin.usage.adjust.mutate({
        id: `a${this.adjustments.length}`,
        ...{ merchantId, date, metrics: { images: String(step.images) }, reason: 'corrected' },
        ...(step.user && { dimensions: { userId: step.user } }),
      });
      this.adjustments.push({ date, images: step.images, user: step.user });
    }
    if (step.do === 'derive') await ingest.db.meters.derive(10);
    if (step.do === 'history') await ingest.db.meters.computeHistory(3);
    if (step.do === 'fold') await ingest.db.meters.fold(addDays(today, 400), 0, 3);
    if (step.do === 'create') await this.create();
    const range = { startDate: addDays(today, -DAYS), endDate: today };
    if (step.do === 'rebuild meter' && this.created)
      await ingest.admin.meters.rebuild.mutate({
        key: `meter_${step.do.length % DEFINITIONS.length}`,
        merchantId,
        ...range,
      });
    if (step.do === 'rebuild all') await ingest.admin.reconcile.rebuild.mutate({ ...range, merchantIds: [merchantId] });
  }

  async create(): Promise<void> {
    if (this.created) return;
    this.created = true;
    for (const [index, definition] of DEFINITIONS.entries())
      await ingest.admin.meters.create.mutate({ ...definition, key: `meter_${index}`, merchantId: this.merchantId });
  }

  async record(specs: readonly Spec[]): Promise<void> {
    const entries = specs.map((each): UsageEntry => {
      const date = addDays(today, -each.daysAgo);
      const at = Date.parse(`${date}T00:00:00Z`) + each.minute * 60_000 + each.id;
      const key = `${date} ${each.id}`;
      // Amounts that a meter could not count exactly are rejected once it exists.
      const isRejected = this.created && (each.took === '1e3' || each.took === '12.125');
      // The first event with an id counts, whatever the later ones contain.
      if (!isRejected && !this.events.has(key)) this.events.set(key, { ...each, key, at, date });
      const { region, session, took, type } = each;
      const properties = Object.fromEntries(
        Object.entries({ region, session, event_type: type, took: took === '12' ? 12 : took }).filter(
          ([, value]) => value !== undefined,
        ),
      );
      return {
        ...{ id: `e${each.id}`, merchantId: this.merchantId, time: new Date(at).toISOString(), count: each.count },
        metrics: each.images === undefined ? {} : { images: String(each.images) },
        ...(each.user && { userId: each.user }),
        status: each.failed ? 'failure' : 'success',
        properties: properties as Record<string, string>,
      };
    });
    await ingest.admin.usage.record.mutate({ entries });
    await ingest.admin.flush.merchant.mutate({ merchantId: this.merchantId });
  }

  /** Every meter by day and by its dimensions, and in total. */
  async compare(): Promise<void> {
    await this.create();
    while (await ingest.db.meters.computeHistory(1_000));
    for (const [index, definition] of DEFINITIONS.entries()) {
      const meter = (await ingest.db.meters.find({ key: `meter_${index}`, merchantId: this.merchantId }))!;
      const days = Array.from({ length: DAYS }, (_, day) => addDays(today, day - DAYS + 1));
      const midnight = startOfDay(addDays(today, 1));
      const midnights = days.map(startOfDay);
      const years = [startOfDay(yearOf(days[0]!).startDate), startOfDay(addDays(yearOf(today).endDate, 1))] as const;
      // Any two moments, here of events.
      const times = [...this.events.values()].map(({ at }) => at).sort((a, b) => a - b);
      const [from, to] = [times[Math.floor(times.length / 4)] ?? midnights[0]!, times.at(-1) ?? midnight];
      for (const [starts, groupBy, end] of [
        [midnights, definition.dimensions ?? [], midnight],
        [midnights.map((at, day) => at + (day === 0 ? 0 : 7 * 900_000)), [], midnight],
        [[midnights[0]!], (definition.dimensions ?? []).slice(0, 1), midnight],
        [[years[0]], (definition.dimensions ?? []).slice(0, 1), years[1]],
        [[from], (definition.dimensions ?? []).slice(0, 1), Math.max(to, from + 1)],
      ] as const) {
        const rows = await ingest.db.meters.read(meter, { starts, end, groupBy, filters: {}, limit: 10_000 });
        const answered = new Map<string, string>();
        const buckets = new Map<string, Map<string, bigint>>();
        for (const { window, group, element, value } of rows) {
          const key = `${window} ${group.join()}`;
          answered.set(key, value);
          buckets.set(key, (buckets.get(key) ?? new Map()).set(element, BigInt(value)));
        }
        const model = this.model(definition, starts, groupBy, end);
        const label = `${definition.aggregation} ${index} by ${groupBy}`;
        if (definition.aggregation !== 'PERCENTILE') {
          expect(Object.fromEntries(answered), label).toEqual(
            Object.fromEntries(model.map(([key, value]) => [key, String(value)])),
          );
          continue;
        }
        expect([...buckets.keys()].sort(), label).toEqual(model.map(([key]) => key).sort());
        for (const [key, median] of model) {
          const [found] = quantilesOf(buckets.get(key)!, [0.5]);
          expect(Math.abs(found! - median), key).toBeLessThanOrEqual(median * RELATIVE_ERROR + 1e-9);
        }
      }
    }
  }

  model(
    definition: (typeof DEFINITIONS)[number],
    starts: readonly number[],
    groupBy: readonly string[],
    end: number,
  ): [string, number][] {
    const { aggregation, metricType, valueProperty, scale = 0, filters = {}, eventType } = definition;
    const groups = new Map<string, { at: number; id: string; value: number; text: string | undefined }[]>();
    const place = (at: number) => starts.findLastIndex((start) => start <= at);
    for (const event of this.events.values()) {
      if (this.voided.has(event.key) || event.at < starts[0]! || event.at >= end) continue;
      const sent: Record<string, string | undefined> = {
        user: event.user,
        'property:region': event.region,
        'property:session': event.session,
        status: event.failed ? 'failure' : 'success',
      };
      if (eventType !== undefined && event.type !== eventType) continue;
      if (Object.entries(filters).some(([name, values]) => !values.includes(sent[name] ?? 'unknown'))) continue;
      const took = event.took === undefined ? undefined : Math.round(Number(event.took) * 10 ** scale);
      const fits = event.took !== '1e3' && (event.took?.split('.')[1] ?? '').length <= scale;
      const value =
        aggregation === 'COUNT'
          ? event.count
          : metricType
            ? event.images
            : valueProperty === 'took' && fits
              ? took
              : undefined;
      const text = aggregation === 'UNIQUE' ? sent[valueProperty === 'user' ? 'user' : 'property:session'] : undefined;
      if (value === undefined && text === undefined) continue;
      const key = `${place(event.at)} ${groupBy.map((name) => sent[name] ?? '').join()}`;
      groups.set(key, [...(groups.get(key) ?? []), { at: event.at, id: `e${event.id}`, value: value ?? 0, text }]);
    }
    if (aggregation === 'SUM' && metricType && !filters.status) {
      for (const { date, images, user } of this.adjustments) {
        const at = startOfDay(date);
        if (at < starts[0]! || at >= end) continue;
        const key = `${place(at)} ${groupBy.map((name) => (name === 'user' ? (user ?? '') : '')).join()}`;
        groups.set(key, [...(groups.get(key) ?? []), { at, id: '', value: images, text: undefined }]);
      }
    }
    return [...groups].map(([key, found]) => {
      const values = found.map(({ value }) => value);
      const sorted = [...values].sort((a, b) => a - b);
      const latest = found.reduce((one, other) =>
        other.at > one.at || (other.at === one.at && other.id > one.id) ? other : one,
      );
      const of: Record<string, () => number> = {
        SUM: () => values.reduce((sum, value) => sum + value, 0),
        COUNT: () => values.reduce((sum, value) => sum + value, 0),
        UNIQUE: () => new Set(found.map(({ text }) => text)).size,
        MAX: () => Math.max(...values),
        MIN: () => Math.min(...values),
        LATEST: () => latest.value,
        PERCENTILE: () => sorted[Math.floor((sorted.length - 1) / 2)]!,
      };
      return [key, of[aggregation]!()];
    });
  }

  async end(): Promise<void> {
    for (const index of DEFINITIONS.keys())
      await ingest.admin.meters.remove.mutate({ key: `meter_${index}`, merchantId: this.merchantId });
  }
}

test(`after ${RUNS} random histories every meter equals the plain model`, async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(op, { minLength: 2, maxLength: 14 }), async (steps) => {
      const world = new World();
      for (const step of steps) await world.take(step);
      await world.compare();
      while ((await ingest.db.meters.derive(10)).flushes > 0);
      await ingest.db.meters.fold(addDays(today, 400), 0, 100);
      await world.compare();
      const scope = { startDate: addDays(today, 1 - DAYS), endDate: today, merchantIds: [world.merchantId] };
      expect((await ingest.admin.reconcile.check.query(scope)).meters).toEqual([]);
      await world.end();
    }),
    { numRuns: RUNS },
  );
}, 600_000);
