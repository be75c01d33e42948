import { setTimeout as wait } from 'node:timers/promises';
import { addDays, countDays, type Day, dayOf, eachDay, isTallyError, TallyError, type Units } from '@tally/contracts';
import type { Db, Executor, FormsRow, JournalLine, MerchantDay, MeterDrift, PeriodRow } from '@tally/db';
import { groupBy } from '@tally/service';
import type { Counters } from '../counters/counters.ts';
import { LIVE_DAYS } from '../counters/keys.ts';
import type { OldLayout } from '../counters/old-layout.ts';
import { identityOf } from '../line.ts';
import type { Pending } from '../pending.ts';
import { createMeterCheck } from './meter-check.ts';
import type { Repair } from './repair.ts';

export type ReconcileOptions = {
  counters: Counters;
  oldLayout: Pick<OldLayout, 'sweep'>;
  pending: Pending;
  repair: Repair;
  db: Pick<Db, 'journal' | 'storedForms' | 'checks' | 'rebuild' | 'deadLetters' | 'meters'>;
  /** Flushes all pending events. */
  drain(): Promise<unknown>;
  /**
   * Flushes pending events of the shards of these merchants, or of all, for a bounded time. Returns true if all are
   * flushed. Never throws.
   */
  flushOf(merchantIds?: readonly string[]): Promise<boolean>;
  isBehind(): Promise<boolean>;
  now: () => number;
};

/** A number that differs between stored forms; null for a form that does not hold it. */
export type Drift = MerchantDay & {
  metricType: string;
  journal: Units;
  daily: Units | null;
  usage: Units;
  /** The running total minus pending events; null for days that Redis does not keep. */
  live: Units | null;
  dailyModels: Units | null;
  quarterHours: Units | null;
  monthly: Units | null;
  yearly: Units | null;
  /** The derived rollup that differs from its source; `merchantId` is '' for a rollup of all merchants. */
  rollup?: string;
  /** The first differing form minus the journal. */
  drift: Units;
  /** Events that the difference may come from. */
  suspects: { id: string; why: string }[];
};

export type CheckReport = {
  balanced: boolean;
  drift: Drift[];
  /** Rollups of meters that differ from their source. */
  meters: MeterDrift[];
  merchantsChecked: number;
  numbersChecked: number;
};

type Scope = { startDate: Day; endDate: Day; merchantIds?: readonly string[] | undefined };

export type Reconcile = {
  /**
   * Compares all stored forms of merchants and days, event by event where they differ. Live traffic makes no drift.
   * Ends once `isGone` returns that nobody waits for it. Throws UNAVAILABLE if the flush is behind: without a list of
   * merchants at once, with one if too much waits in their shards.
   */
  check(scope: Scope, isGone?: () => boolean): Promise<CheckReport>;
  /**
   * The same without repairs, also for merchants that only Redis knows: for restored stores that no service uses yet.
   */
  checkRestored(scope: { startDate: Day; endDate: Day }): Promise<CheckReport>;
  /** Rebuilds the rollups of merchants and days from the journal. */
  rebuild(scope: Scope): Promise<{ merchants: number; days: number; closedDays: number; durationMs: number }>;
  /** Corrects running totals from Postgres that are known to be wrong; returns how many days it corrected. */
  settle(): Promise<number>;
  /**
   * Compares the last days of all merchants, corrects running totals that differ, and rebuilds rollups of meters that
   * differ.
   */
  repair(isGone?: () => boolean): Promise<CheckReport & { repaired: number }>;
  /** The same for merchants' days that changed since they were last found correct. */
  repairChanged(isGone?: () => boolean): Promise<CheckReport & { repaired: number }>;
};

const MAX_SUSPECTS = 20;
const SETTLED_AT_ONCE = 1_000;
/** Differing numbers that are named to whoever is alerted. */
const MAX_EXAMPLES = 10;
/** Days of merchants compared under one set of locks; the flush skips these merchants meanwhile. */
const DAYS_AT_ONCE = 160;
/** Days of merchants that a pass over changed days reads at once. */
const PAGE_DAYS = 10_000;
/** The share of time in which comparisons work; otherwise they pause. */
const SHARE = 0.5;

type Group = { shard: number; merchantIds: readonly string[]; startDate: Day; endDate: Day };
/** `unrepaired`: totals that differ in a restarted Redis whose repair is not finished. */
type Checked = { drift: Drift[]; unrepaired: Drift[]; numbers: number };

/**
 * Compares running totals in Redis with the journal in Postgres, which count the same events independently. The
 * merchant's flush lock is held meanwhile, so no event moves between them.
 */
export function createReconcile(options: ReconcileOptions): Reconcile {
  const { counters, oldLayout, pending, repair, db, drain, flushOf, isBehind, now } = options;
  const { shardOf } = counters.keys;
  const isLive = (date: Day) => date >= addDays(dayOf(now()), -LIVE_DAYS) && date <= addDays(dayOf(now()), 1);

  /** Compares days of merchants of one shard, under their locks. */
  async function checkGroup({ shard, merchantIds, startDate, endDate }: Group): Promise<Checked> {
    return db.journal.exclusively(merchantIds, async (transaction) => {
      const read = await db.storedForms.read({ merchantIds, startDate, endDate }, transaction);
      const rows = groupBy(read, nameOf);
      let numbers = read.length;
      const days = merchantIds.flatMap((merchantId) =>
        eachDay(startDate, endDate).map((date) => ({ merchantId, date })),
      );
      const typesOf = (day: MerchantDay) => (rows.get(nameOf(day)) ?? []).map((row) => row.metricType);
      const live = days.filter(({ date }) => isLive(date)).map((day) => ({ ...day, metricTypes: typesOf(day) }));
      const compared = live.length === 0 ? [] : await pending.compare(shard, live, transaction);
      const [drift, unrepaired]: [Drift[], Drift[]] = [[], []];
      for (const day of days) {
        if (!isLive(day.date)) drift.push(...(rows.get(nameOf(day)) ?? []).flatMap((row) => driftOf(row, null)));
      }
      for (const { merchantId, date, trusted, totals, outstanding, waiting } of compared) {
        const byType = new Map((rows.get(nameOf({ merchantId, date })) ?? []).map((row) => [row.metricType, row]));
        const found: Drift[] = [];
        for (const type of new Set([...byType.keys(), ...totals.keys()])) {
          const live = (totals.get(type) ?? 0n) - (outstanding.get(type) ?? 0n);
          if (!byType.has(type)) numbers++;
          found.push(...driftOf(byType.get(type) ?? emptyRow(merchantId, date, type), live));
        }
        if (found.length === 0) continue;
        if (!trusted && found.every(isOfTotals)) {
          unrepaired.push(...found);
          continue;
        }
        const suspects = await suspectsOf(merchantId, date, waiting, transaction);
        for (const each of found) each.suspects = suspects;
        drift.push(...found);
      }
      drift.push(...(await db.storedForms.pricedApart({ merchantIds, startDate, endDate }, transaction)).map(asDrift));
      return { drift, unrepaired, numbers };
    });
  }

  /** Compares group after group, with pauses; one that is behind is flushed and tried once more. */
  async function checkGroups(groups: readonly Group[], isGone: () => boolean): Promise<Checked> {
    const all: Checked = { drift: [], unrepaired: [], numbers: 0 };
    for (const group of groups) {
      if (isGone()) throw new TallyError('UNAVAILABLE', 'Nobody waits for this comparison any more.');
      const started = performance.now();
      const { drift, unrepaired, numbers } = await checkGroup(group).catch(async (error: unknown) => {
        if (!isTallyError(error) || error.code !== 'UNAVAILABLE') throw error;
        await flushOf(group.merchantIds);
        return checkGroup(group);
      });
      all.drift.push(...drift);
      all.unrepaired.push(...unrepaired);
      all.numbers += numbers;
      await wait((performance.now() - started) * (1 / SHARE - 1));
    }
    return all;
  }

  /** Periods whose derived rollups differ, as drifts. */
  async function periodDrift(scope: Scope): Promise<Drift[]> {
    return (await db.storedForms.periodsApart(scope)).map(asDrift);
  }

  async function suspectsOf(merchantId: string, date: Day, waiting: readonly JournalLine[], transaction: Executor) {
    const ids = await counters.knownIds(merchantId, date);
    const identities = ids.flatMap(({ id, dates }) => dates.map((each) => ({ date: each, id })));
    const known = await db.storedForms.known(merchantId, identities, transaction);
    const outstanding = new Set(waiting.map(identityOf));
    const missing = ids.filter(({ id, dates }) =>
      dates.every((each) => !known.has(`${each} ${id}`) && !outstanding.has(`${each} ${id}`)),
    );
    const refused = await db.deadLetters.among(
      { merchantId, date },
      missing.map(({ id }) => id),
      transaction,
    );
    const lost = missing.filter(({ id }) => !refused.has(id));
    const found = await db.storedForms.suspects(merchantId, date, MAX_SUSPECTS, transaction);
    return [...lost.map(({ id }) => ({ id, why: 'acknowledged, but not in the journal' })), ...found].slice(
      0,
      MAX_SUSPECTS,
    );
  }

  async function merchantsOf({ startDate, endDate, merchantIds }: Scope): Promise<string[]> {
    if (merchantIds?.length) return [...new Set(merchantIds)];
    const [counted, pending] = [await db.storedForms.merchants(startDate, endDate), await counters.waitingMerchants()];
    return [...new Set([...counted, ...pending])].sort();
  }

  const meterCheck = createMeterCheck({ db, share: SHARE });

  const check: Reconcile['check'] = async (scope, isGone = () => false) => {
    // Each group of merchants would read the backlog of its shard, and take locks that the flush needs.
    if (!scope.merchantIds?.length && !(await flushOf()) && (await isBehind()))
      throw new TallyError(
        'UNAVAILABLE',
        'Events wait longer than 10 s to be flushed. Compare a few merchants, or call again when fewer wait (flush.status).',
      );
    await settle();
    return compare(scope, { isGone, repairMeters: false });
  };

  async function compare(
    { startDate, endDate, merchantIds }: Scope,
    { isGone, repairMeters }: { isGone: () => boolean; repairMeters: boolean },
  ): Promise<CheckReport> {
    const merchants = await merchantsOf({ startDate, endDate, merchantIds });
    const { drift, unrepaired, numbers } = await checkGroups(groupsOf(merchants, startDate, endDate), isGone);
    drift.push(...unrepaired);
    // Without a list of merchants, rollups of all merchants are compared, too.
    drift.push(
      ...(await periodDrift({ merchantIds: merchantIds?.length ? merchants : undefined, startDate, endDate })),
    );
    const scope = { startDate, endDate, merchantIds: merchants };
    const meters = await meterCheck.check(scope, {
      isGone,
      repair: repairMeters,
      everyMerchant: !merchantIds?.length,
    });
    return {
      balanced: drift.length === 0 && meters.drift.length === 0,
      drift,
      meters: meters.drift,
      merchantsChecked: merchants.length,
      numbersChecked: numbers + meters.rows,
    };
  }

  const checkRestored: Reconcile['checkRestored'] = async (scope) => {
    const merchants = new Set(await merchantsOf(scope));
    for (const date of eachDay(scope.startDate, scope.endDate).filter(isLive))
      for await (const page of counters.scanTotals(date)) for (const { merchantId } of page) merchants.add(merchantId);
    return compare({ ...scope, merchantIds: [...merchants].sort() }, { isGone: () => false, repairMeters: false });
  };

  /** Merchants of one shard, compared on the same days. */
  function groupsOf(merchantIds: readonly string[], startDate: Day, endDate: Day): Group[] {
    const most = Math.max(1, Math.floor(DAYS_AT_ONCE / countDays(startDate, endDate)));
    const groups: Group[] = [];
    const open = new Map<number, Group & { merchantIds: string[] }>();
    for (const merchantId of merchantIds) {
      const shard = shardOf(merchantId);
      let group = open.get(shard);
      if (!group || group.merchantIds.length >= most) {
        group = { shard, merchantIds: [], startDate, endDate };
        open.set(shard, group);
        groups.push(group);
      }
      group.merchantIds.push(merchantId);
    }
    return groups;
  }

  async function settle(): Promise<number> {
    let settled = 0;
    for (;;) {
      const days = await db.storedForms.staleTotals(SETTLED_AT_ONCE);
      await repair.days(days);
      settled += days.length;
      if (days.length < SETTLED_AT_ONCE) return settled;
    }
  }

  /** Repairs the totals that differ; returns how many days it repaired. */
  async function repairTotals(drift: readonly Drift[]): Promise<number> {
    const days = new Map(
      drift
        .filter((each) => each.live !== null && each.live !== each.usage)
        .map(({ merchantId, date }) => [nameOf({ merchantId, date }), { merchantId, date }]),
    );
    await repair.days([...days.values()]);
    return days.size;
  }

  /** Stores the drift that a pass found, for alerts. */
  async function note({ drift, meters }: CheckReport): Promise<void> {
    const found = [
      ...drift.map(({ merchantId, date, metricType, rollup }) => ({ merchantId, date, what: rollup ?? metricType })),
      ...meters.map(({ merchantId, date, meter }) => ({ merchantId, date, what: meter })),
    ];
    if (found.length === 0) return;
    const examples = found.slice(0, MAX_EXAMPLES);
    await db.checks.noteDrift(new Date(now()), { numbers: found.length, examples });
  }

  const liveRange = () => ({ startDate: addDays(dayOf(now()), -LIVE_DAYS), endDate: addDays(dayOf(now()), 1) });

  return {
    check,
    checkRestored,
    settle,
    async rebuild(scope) {
      const started = performance.now();
      const merchants = await merchantsOf(scope);
      let closedDays = 0;
      for (const merchantId of merchants)
        closedDays += (await db.rebuild.merchant(merchantId, scope.startDate, scope.endDate)).closedDays;
      if (!scope.merchantIds?.length) await db.rebuild.platform(scope.startDate, scope.endDate);
      const days = merchants.length * countDays(scope.startDate, scope.endDate);
      return { merchants: merchants.length, days, closedDays, durationMs: Math.round(performance.now() - started) };
    },
    async repair(isGone) {
      await oldLayout.sweep();
      await drain();
      await settle();
      const report = await compare(liveRange(), { isGone: isGone ?? (() => false), repairMeters: true });
      const repaired = await repairTotals(report.drift);
      await repair.afterRestart();
      await note(report);
      return { ...report, repaired };
    },
    async repairChanged(isGone = () => false) {
      await settle();
      const range = liveRange();
      await db.checks.forget(range.startDate);
      const report: CheckReport = { balanced: true, drift: [], meters: [], merchantsChecked: 0, numbersChecked: 0 };
      let after: MerchantDay = { merchantId: '', date: range.startDate };
      let repaired = 0;
      for (;;) {
        const page = await db.checks.unchecked(range, after, PAGE_DAYS);
        const [merchants, drift] = [new Set(page.map((day) => day.merchantId)), [] as Drift[]];
        for (const [date, days] of groupBy(page, (day) => day.date)) {
          const groups = groupsOf(
            days.map((day) => day.merchantId),
            date,
            date,
          );
          const checked = await checkGroups(groups, isGone);
          drift.push(...checked.drift);
          repaired += await repairTotals(checked.unrepaired);
          report.numbersChecked += checked.numbers;
        }
        if (page.length > 0) drift.push(...(await periodDrift({ ...range, merchantIds: [...merchants] })));
        // A day that changed meanwhile has a later version, and is compared again by the next pass.
        const wrong = new Set(drift.map((each) => each.merchantId));
        await db.checks.mark(page.filter((day) => !wrong.has(day.merchantId)));
        repaired += await repairTotals(drift);
        report.drift.push(...drift);
        report.merchantsChecked += merchants.size;
        if (page.length < PAGE_DAYS) break;
        after = page.at(-1)!;
      }
      const meters = await meterCheck.repairChanged(range, isGone);
      report.meters.push(...meters.drift);
      report.numbersChecked += meters.rows;
      await note(report);
      return { ...report, balanced: report.drift.length === 0 && report.meters.length === 0, repaired };
    },
  };
}

/** Returns true if only the running total differs. */
const isOfTotals = ({ journal, usage, daily, dailyModels, quarterHours }: Drift) =>
  [usage, daily, dailyModels, quarterHours].every((form) => form === null || form === journal);

const nameOf = ({ merchantId, date }: MerchantDay) => `${merchantId}\n${date}`;

/** A rollup that is not the sum of its parts, as a drift. */
function asDrift({ parts, whole, ...row }: PeriodRow): Drift {
  const sums = { journal: parts, daily: row.rollup === 'usage_monthly' ? parts : null, usage: parts };
  const period = {
    monthly: row.rollup === 'usage_monthly' ? whole : null,
    yearly: row.rollup === 'usage_yearly' ? whole : null,
  };
  const none = { live: null, dailyModels: null, quarterHours: null, suspects: [] };
  return { ...row, ...sums, ...period, ...none, drift: whole - parts };
}

function driftOf({ daily, dailyModels, quarterHours, ...row }: FormsRow, live: Units | null): Drift[] {
  const forms = [daily, row.usage, live, dailyModels, quarterHours];
  const apart = forms.find((form) => form !== null && form !== row.journal);
  if (apart === undefined || apart === null) return [];
  const periods = { monthly: null, yearly: null };
  return [{ ...row, daily, live, dailyModels, quarterHours, ...periods, drift: apart - row.journal, suspects: [] }];
}

function emptyRow(merchantId: string, date: Day, metricType: string): FormsRow {
  const none = { journal: 0n, usage: 0n, daily: null, dailyModels: null, quarterHours: null };
  return { merchantId, date, metricType, ...none };
}
