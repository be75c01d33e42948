import { addDays, type CheckedEntry, type Day, dayOf, formatCost, formatQuantity } from '@tally/contracts';
import type { MerchantMetric } from '@tally/db';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import type { Redis } from 'ioredis';
import pg from 'pg';
import { afterEach, expect, test } from 'vitest';
import type { FAULT_POINTS } from '../src/faults.ts';
import { type Fixture, startIngest } from './ingest-fixture.ts';

/**
 * Random histories against a plain model: whatever is repeated, interrupted, late, lost by Redis or corrected, in the
 * end every stored form equals the set of acknowledged events, each once, plus the adjustments.
 */
const RUNS = runsOf({ short: 200, long: 1_000 });
/** Histories that share days and the last comparison, each with a merchant of its own. */
const PAGE = 20;

type Point = (typeof FAULT_POINTS)[number];

class Death extends Error {}

let ingest: Fixture;
let sql: pg.Client;
let armed: Point | undefined;
let runs = 0;
const closedDays = new Set<Day>();

async function start(shards: number): Promise<void> {
  // Each call begins a generation of ids, and no generation may take memory once its events are flushed. The third user
  // of a day is beyond the limit, and rollups count it under `(other)`.
  const settings = {
    ...{ MAX_METRIC_TYPES_PER_DAY: '20', MAX_DIMENSION_VALUES_PER_DAY: '2' },
    ...{ USAGE_SHARDS: String(shards), DEDUPLICATION_MEMORY_SHARE: '0' },
  };
  ingest = await startIngest(settings, (point) => {
    if (point !== armed) return;
    armed = undefined;
    throw new Death(point);
  });
  sql = new pg.Client({ connectionString: ingest.databaseUrl });
  await sql.connect();
  ingest.clock.now = Date.now();
  closedDays.clear();
  runs = 0;
  await ingest.window.look();
}
async function stop(): Promise<void> {
  await sql.end();
  await ingest.close();
}

type Spec = { id: number; daysAgo: number };
type Op =
  | { do: 'record'; entries: Spec[]; fault: Point | undefined; backfill: boolean }
  | { do: 'repeat' }
  | { do: 'repeat before midnight' }
  | { do: 'conflict' }
  | { do: 'track'; by: number; id: string | undefined }
  | { do: 'drain'; fault: Point | undefined; at: number }
  | { do: 'derive' }
  | { do: 'adjust'; id: number; tokens: number; daysAgo: number; fault: boolean }
  | { do: 'window drops' }
  | { do: 'repeat past the window'; again: boolean }
  | { do: 'check' }
  | { do: 'redis loses the ids' }
  | { do: 'repair'; fault: boolean }
  | { do: 'redis forgets totals' }
  | { do: 'redis goes back' }
  | { do: 'day passes' }
  | { do: 'months pass' };

const spec: fc.Arbitrary<Spec> = fc.record({
  id: fc.integer({ min: 0, max: 23 }),
  daysAgo: fc.constantFrom(0, 0, 0, 1, 5, 6, 7, 20, 35, 36, 50),
});

const flushFault = fc.constantFrom<Point | undefined>(
  undefined,
  'flush.before-read',
  'flush.before-append',
  'flush.before-commit',
  'flush.after-commit',
  'flush.after-remove',
);
const recordFault = fc.constantFrom<Point | undefined>(
  undefined,
  undefined,
  undefined,
  'record.before-store',
  'record.before-redis',
  'record.after-store',
);

const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('record' as const),
      entries: fc.array(spec, { minLength: 1, maxLength: 6 }),
      fault: recordFault,
      backfill: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.constant({ do: 'repeat' as const }) },
  { weight: 2, arbitrary: fc.constantFrom<Op>({ do: 'repeat before midnight' }, { do: 'conflict' }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('track' as const),
      by: fc.integer({ min: 0, max: 9 }),
      id: fc.constantFrom(undefined, 't1', 't2'),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant('drain' as const), fault: flushFault, at: fc.constantFrom(1, 1, 3) }),
  },
  { weight: 2, arbitrary: fc.constant<Op>({ do: 'derive' }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('adjust' as const),
      id: fc.integer({ min: 0, max: 3 }),
      tokens: fc.integer({ min: -50, max: 50 }).filter((tokens) => tokens !== 0),
      daysAgo: fc.constantFrom(0, 1, 40),
      fault: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom<Op>({ do: 'day passes' }, { do: 'redis loses the ids' }),
  },
  { weight: 2, arbitrary: fc.constant<Op>({ do: 'window drops' }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('repeat past the window' as const), again: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.constant<Op>({ do: 'check' }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('repair' as const), fault: fc.boolean() }) },
  { weight: 1, arbitrary: fc.constantFrom<Op>({ do: 'redis forgets totals' }, { do: 'redis goes back' }) },
  { weight: 1, arbitrary: fc.constant<Op>({ do: 'months pass' }) },
);

/**
 * Tests half of the histories with so many shards. Each number has a file of its own: they take longest, side by side.
 */
export function testHistories(shards: number): void {
  afterEach(stop);
  test(`with ${shards} shards, after ${RUNS / 2} random histories every stored form equals the plain model`, {
    timeout: 1_800_000,
  }, async () => {
    await start(shards);
    const history = fc.array(op, { minLength: 1, maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(fc.array(history, { minLength: PAGE, maxLength: PAGE }), async (histories) => {
        await turnThePage();
        const begun = dayOf(ingest.clock.now);
        const worlds: World[] = [];
        for (const steps of histories) {
          const world = new World(`m${runs++}`);
          worlds.push(world);
          // Compares only trusted totals.
          if (!(await world.isTrusted())) await ingest.admin.reconcile.repair.mutate({});
          for (const step of steps) {
            await world.take(step);
            await world.compareTotals();
          }
          await world.settle();
        }
        await compare(worlds, begun);
      }),
      { numRuns: Math.ceil(RUNS / 2 / PAGE) },
    );
  });
}

/** Between pages time passes and Redis is empty, so that pages do not share merchants. */
async function turnThePage(): Promise<void> {
  await (ingest.redis as Redis).flushdb();
  ingest.clock.now += 60 * 24 * 3_600_000;
  await closeDays();
}

async function closeDays(): Promise<void> {
  const { closed } = await ingest.admin.journal.close.mutate({});
  for (const day of closed) closedDays.add(day);
}

/** Returns every stored form of these merchants, over all days since `begun` and those of late events. */
async function compare(worlds: readonly World[], begun: Day): Promise<void> {
  await ingest.admin.reconcile.repair.mutate({});
  const merchantIds = worlds.map((world) => world.merchantId);
  const last = addDays(dayOf(ingest.clock.now), 1);
  for (let first = addDays(begun, -60); first <= last; first = addDays(first, 300)) {
    const scope = { startDate: first, endDate: addDays(first, 299), merchantIds };
    expect((await ingest.admin.reconcile.check.query(scope)).drift).toEqual([]);
  }
  const all = { merchantIds, startDate: '2000-01-01', endDate: '2999-01-01' };
  const rows = await ingest.db.usage.merchantUsage(all);
  for (const world of worlds) world.compare(rows.filter((row) => row.merchant_id === world.merchantId));
  // Older histories have lost their totals in Redis; for the last one each answer is compared.
  await worlds.at(-1)!.compareCurrent();
}

/** One merchant, the service's and the model's. */
class World {
  readonly sums = new Map<string, bigint>();
  readonly ids = new Set<string>();
  readonly adjusted = new Map<string, { date: Day; tokens: number }>();
  /** Identities whose other content was acknowledged: `usage.conflicts` has them as long as their day is kept. */
  readonly conflicts = new Set<string>();
  last: { entries: CheckedEntry[]; backfill: boolean } | undefined;
  /** Keys of Redis at an earlier moment, with all events accepted since then flushed. */
  older: { key: string; value: Buffer; ttl: number }[] | undefined;

  constructor(readonly merchantId: string) {}

  get today(): Day {
    return dayOf(ingest.clock.now);
  }

  count(date: Day, type: string, units: bigint): void {
    if (units === 0n) return;
    const key = `${date} ${type}`;
    this.sums.set(key, (this.sums.get(key) ?? 0n) + units);
  }

  async take(step: Op): Promise<void> {
    switch (step.do) {
      case 'record':
        return this.record(
          step.entries.map((each) => this.entryOf(each)),
          step.backfill,
          step.fault,
        );
      case 'repeat':
        if (this.last) await this.record(this.last.entries, this.last.backfill, undefined);
        return;
      case 'repeat before midnight':
        return this.repeatBeforeMidnight();
      case 'conflict':
        return this.conflict();
      case 'track':
        return this.track(step.by, step.id);
      case 'drain':
        armed = step.fault;
        await Promise.all(Array.from({ length: step.at }, () => this.drain()));
        armed = undefined;
        return;
      case 'derive':
        return ingest.derive.run();
      case 'adjust':
        return this.adjust(step);
      case 'redis loses the ids':
        return this.forget('usage-shard:*:ids:*');
      case 'window drops':
        await ingest.window.look();
        return;
      case 'repeat past the window':
        await this.drain();
        await this.forget('usage-shard:*:ids:*');
        if (this.last) await this.record(this.last.entries, this.last.backfill, undefined);
        if (step.again) await this.drain();
        return;
      case 'check':
        await ingest.admin.reconcile.check.query({
          startDate: addDays(this.today, -6),
          endDate: this.today,
          merchantIds: [this.merchantId],
        });
        return;
      case 'repair':
        armed = step.fault ? 'reconcile.before-set' : undefined;
        await ingest.admin.reconcile.repair.mutate({}).catch((error: unknown) => {
          if (!step.fault) throw error;
        });
        armed = undefined;
        return;
      case 'redis forgets totals':
        await this.forget(`usage:${this.merchantId}:*`);
        await this.forget('usage-shard:*:types:*');
        return this.forget('usage-shard:*:life');
      case 'redis goes back':
        return this.goBack();
      case 'day passes':
        ingest.clock.now += 24 * 3_600_000;
        return;
      case 'months pass': {
        // The streams are drained before a day can be so old that it is closed.
        await this.drain();
        ingest.clock.now += 41 * 24 * 3_600_000;
        await closeDays();
      }
    }
  }

  /** An event's content follows from its identity: a producer that repeats it sends it whole. */
  entryOf({ id, daysAgo }: Spec): CheckedEntry {
    const pick = <T>(choices: readonly T[]) => choices[id % choices.length]!;
    const extra = pick([undefined, 'queries', 'constructor', undefined, 'queries']);
    return {
      id: `e${id}`,
      merchantId: this.merchantId,
      time: `${addDays(this.today, -daysAgo)}T00:00:00Z`,
      userId: pick(['u1', 'u2', 'u3']),
      status: pick(['success', 'failure']),
      metrics: {
        prompt_tokens: pick(['0', '1', '9007199254740', '1000000000000000']),
        cost: pick(['0', '0.000000001', '0.0023', '1000000', '0.5']),
        ...(extra ? { [extra]: '7' } : {}),
      },
    };
  }

  async record(entries: CheckedEntry[], backfill: boolean, fault: Point | undefined): Promise<void> {
    armed = fault;
    const call = ingest.admin.usage.record.mutate({ entries, backfill });
    if (fault === 'record.before-store') {
      await expect(call).rejects.toMatchObject({ data: { code: 'UNAVAILABLE' } });
      return;
    }
    const { rejected } = await call;
    armed = undefined;
    this.last = { entries, backfill };
    const refused = new Map(rejected.map(({ index, code }) => [index, code]));
    entries.forEach((entry, index) => {
      const date = entry.time!.slice(0, 10);
      const identity = `${date} ${entry.id}`;
      const expected = this.refusalOf(date, backfill);
      expect(refused.get(index), identity).toBe(
        this.ids.has(identity) && expected === undefined ? undefined : expected,
      );
      if (expected !== undefined || this.ids.has(identity)) return;
      this.ids.add(identity);
      this.count(date, 'requests', 1n);
      if (entry.status === 'failure') this.count(date, 'failed_requests', 1n);
      for (const [type, text] of Object.entries(entry.metrics)) this.count(date, type, unitsOf(type, text));
    });
  }

  /** Counted events of the last call, on days that accept events in any case. */
  counted(): CheckedEntry[] {
    const first = addDays(this.today, -30);
    const entries = this.last?.entries.filter((entry) => {
      const date = entry.time!.slice(0, 10);
      return date >= first && this.ids.has(`${date} ${entry.id}`);
    });
    return [...new Map(entries?.map((entry) => [`${entry.time} ${entry.id}`, entry])).values()];
  }

  /** A producer that stamps the time on each try: events of the first moment of a day again, a minute before it. */
  async repeatBeforeMidnight(): Promise<void> {
    const entries = this.counted().map((entry) => ({
      ...entry,
      time: new Date(Date.parse(entry.time!) - 60_000).toISOString(),
    }));
    if (entries.length === 0) return;
    // A copy of a day without totals in Redis goes directly to the journal, past pending events: see ADR 86.
    if (entries.some(({ time }) => time < addDays(this.today, -6))) await this.drain();
    expect((await ingest.admin.usage.record.mutate({ entries })).rejected).toEqual([]);
  }

  /** Other events with the ids of counted ones: they are not counted, and never silently. */
  async conflict(): Promise<void> {
    const entries = this.counted().map((entry) => ({ ...entry, metrics: { ...entry.metrics, prompt_tokens: '3' } }));
    if (entries.length === 0) return;
    const { rejected } = await ingest.admin.usage.record.mutate({ entries });
    for (const { code } of rejected) expect(code).toBe('ID_CONFLICT');
    const known = new Set(rejected.map(({ index }) => index));
    entries.forEach(({ id, time }, index) => {
      if (!known.has(index)) this.conflicts.add(`${time!.slice(0, 10)} ${id}`);
    });
  }

  refusalOf(date: Day, backfill: boolean): string | undefined {
    if (date < addDays(this.today, -35) && !backfill) return 'TIME_TOO_OLD';
    return closedDays.has(date) ? 'DAY_CLOSED' : undefined;
  }

  async track(by: number, id: string | undefined): Promise<void> {
    const more = id === undefined ? {} : { id };
    await ingest.admin.usage.track.mutate({ merchantId: this.merchantId, metricType: 'queries', by, ...more });
    const identity = `${this.today} ${id}`;
    // A plain call of 0 is no event, so it does not claim its id.
    if (by === 0 || (id !== undefined && this.ids.has(identity))) return;
    if (id !== undefined) this.ids.add(identity);
    this.count(this.today, 'queries', BigInt(by));
  }

  async adjust({ id, tokens, daysAgo, fault }: Extract<Op, { do: 'adjust' }>): Promise<void> {
    const date = addDays(this.today, -daysAgo);
    const send = () =>
      ingest.admin.usage.adjust.mutate({
        id: `a${id}`,
        merchantId: this.merchantId,
        date,
        metrics: { completion_tokens: String(tokens) },
        reason: 'the model says so',
      });
    if (fault) {
      armed = 'adjust.before-commit';
      await expect(send()).rejects.toMatchObject({ data: { code: 'INTERNAL' } });
    }
    const before = this.adjusted.get(`a${id}`);
    if (before && (before.date !== date || before.tokens !== tokens)) {
      await expect(send()).rejects.toMatchObject({ data: { code: 'CONFLICT' } });
      return;
    }
    await send();
    if (before) return;
    this.adjusted.set(`a${id}`, { date, tokens });
    this.count(date, 'completion_tokens', BigInt(tokens));
  }

  async drain(): Promise<void> {
    await ingest.flush.drainMerchants([this.merchantId]).catch((error: unknown) => {
      if (!(error instanceof Death)) throw error;
    });
  }

  async keys(pattern: string): Promise<string[]> {
    return (ingest.redis as Redis).keys(pattern);
  }

  async forget(pattern: string): Promise<void> {
    const keys = await this.keys(pattern);
    if (keys.length > 0) await ingest.redis.del(...keys);
  }

  /** Redis returns with older data: old totals, old ids, items that were flushed since. */
  async goBack(): Promise<void> {
    armed = undefined;
    if (this.older) {
      await this.drain();
      expect(await ingest.redis.xlen(ingest.keys.journal(ingest.keys.shardOf(this.merchantId)))).toBe(0);
      await this.forget('*');
      for (const { key, value, ttl } of this.older) await ingest.redis.restore(key, ttl, value, 'REPLACE');
      // It restarted, so nobody trusts its totals.
      await this.forget('usage-shard:*:life');
    }
    this.older = await Promise.all(
      (await this.keys('*')).map(async (key) => ({
        key,
        value: (await ingest.redis.dumpBuffer(key))!,
        ttl: Math.max(0, await ingest.redis.pttl(key)),
      })),
    );
  }

  /**
   * Invariants: an answer never misses acknowledged events, and exceeds them only by pending repeats; and a total that
   * is not known to be stale is the sum of Postgres and pending events.
   */
  async compareTotals(): Promise<void> {
    const { merchantId, today } = this;
    const stream = ingest.keys.journal(ingest.keys.shardOf(merchantId));
    const { rows } = await sql.query(
      `select 'event' as what, date::text as date, id as name, origin as value
       from usage_events where merchant_id = $1 and date >= $2
       union all
       select 'usage', date::text, metric_type, metric_value::text
       from merchant_usage where merchant_id = $1 and date >= $2
       union all
       select 'stale', date::text, null, null from usage_stale_totals where merchant_id = $1`,
      [merchantId, addDays(today, -6)],
    );
    const found = (what: string) => rows.filter((row) => row.what === what);
    const origins = new Map(found('event').map((row) => [`${row.date} ${row.name}`, row.value]));
    const stored = new Map(found('usage').map((row) => [`${row.date} ${row.name}`, BigInt(row.value)]));
    const staleDays = new Set(found('stale').map((row) => row.date));
    const waiting = new Map<string, bigint>();
    const repeats = new Map<string, bigint>();
    const first = new Set(origins.keys());
    const add = (to: Map<string, bigint>, key: string, units: bigint) => to.set(key, (to.get(key) ?? 0n) + units);
    for (const [, fields] of await ingest.redis.xrange(stream, '-', '+')) {
      const field = (name: string) => fields[fields.indexOf(name) + 1]!;
      field('lines')
        .split('\n')
        .map((text) => JSON.parse(text))
        .forEach((line, position) => {
          // Only copies arrive just before a midnight: of events of the day after it.
          const identity = `${dayOf(line.time + 60_000)} ${line.id}`;
          if (origins.get(identity) === `${field('batch')}:${position}`) return;
          const { requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics } = line;
          const amounts = { requests, failed_requests, prompt_tokens, completion_tokens, cost, ...metrics };
          for (const [type, units] of Object.entries(amounts)) {
            if (units === undefined) continue;
            add(waiting, `${line.date} ${type}`, BigInt(units as string));
            if (first.has(identity)) add(repeats, `${line.date} ${type}`, BigInt(units as string));
          }
          first.add(identity);
        });
    }
    const trusted = await this.isTrusted();
    const days = new Map<Day, Set<string>>();
    for (const key of [...this.sums.keys(), ...waiting.keys()]) {
      const date = key.slice(0, 10);
      if (date < addDays(today, -6) || date > today) continue;
      days.set(date, (days.get(date) ?? new Set()).add(key.slice(11)));
    }
    const compareDay = async ([date, types]: [Day, Set<string>]) => {
      const { prefix, suffix } = ingest.keys.total(merchantId, date);
      const names = [...types];
      const [{ metrics }, totals] = await Promise.all([
        ingest.admin.usage.current.query({ merchantId, date }),
        (ingest.redis as Redis).mget(names.map((type) => prefix + type + suffix)),
      ]);
      names.forEach((type, index) => {
        const key = `${date} ${type}`;
        const right = this.sums.get(key) ?? 0n;
        const shown = unitsOf(type, metrics[type] ?? '0');
        expect(shown >= right, `${key} ${shown} of ${right}`).toBe(true);
        expect(shown <= right + (repeats.get(key) ?? 0n), `${key} ${shown} of ${right}`).toBe(true);
        if (staleDays.has(date) || !trusted) return;
        expect(BigInt(totals[index] ?? 0), key).toBe((stored.get(key) ?? 0n) + (waiting.get(key) ?? 0n));
      });
    };
    await Promise.all([...days].map(compareDay));
  }

  /** Returns true if Redis has lost nothing since its totals were repaired. */
  async isTrusted(): Promise<boolean> {
    const life = await ingest.redis.get(ingest.keys.life(ingest.keys.shardOf(this.merchantId)));
    return life !== null && !life.startsWith('repairing');
  }

  /** Ends the history: flushes its events, so that a later loss of Redis cannot affect them. */
  async settle(): Promise<void> {
    armed = undefined;
    await this.drain();
    const scope = { startDate: '2000-01-01', endDate: '2999-01-01', merchantIds: [this.merchantId], limit: 1_000 };
    const listed = await ingest.db.conflicts.list({ ...scope, after: undefined });
    const known = new Set(listed.map(({ date, entryId }) => `${date} ${entryId}`));
    for (const identity of this.conflicts)
      if (!closedDays.has(identity.slice(0, 10))) expect(known, 'acknowledged conflicts').toContain(identity);
  }

  compare(rows: readonly MerchantMetric[]): void {
    const counted = rows
      .filter((row) => row.metric_value !== 0n)
      .map((row) => [`${row.date} ${row.metric_type}`, row.metric_value]);
    expect(Object.fromEntries(counted)).toEqual(Object.fromEntries([...this.sums].filter(([, units]) => units !== 0n)));
  }

  async compareCurrent(): Promise<void> {
    for (let daysAgo = 0; daysAgo <= 6; daysAgo++) {
      const date = addDays(this.today, -daysAgo);
      const { metrics } = await ingest.admin.usage.current.query({ merchantId: this.merchantId, date });
      const model = [...this.sums].filter(([key, units]) => key.startsWith(date) && units !== 0n);
      const shown = Object.entries(metrics).filter(([, value]) => value !== '0');
      expect(Object.fromEntries(shown)).toEqual(
        Object.fromEntries(model.map(([key, units]) => [key.slice(11), formatQuantity(key.slice(11), units)])),
      );
    }
  }
}

function unitsOf(type: string, text: string): bigint {
  if (type !== 'cost') return BigInt(text);
  if (text.startsWith('-')) return -unitsOf(type, text.slice(1));
  const [whole = '0', fraction = ''] = text.split('.');
  const units = BigInt(whole) * 10n ** 9n + BigInt(fraction.padEnd(9, '0'));
  expect(formatCost(units)).toBe(text);
  return units;
}
