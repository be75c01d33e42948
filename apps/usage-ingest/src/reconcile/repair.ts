import { addDays, type Day, dayOf, eachDay, type Units } from '@tally/contracts';
import type { Db, MerchantDay } from '@tally/db';
import type { Counters, LiveTotal } from '../counters/counters.ts';
import { LIVE_DAYS } from '../counters/keys.ts';
import type { FaultPoint } from '../faults.ts';
import type { DayCompared, Pending } from '../pending.ts';

export type Repair = {
  /**
   * Repairs the totals of these days, if Redis keeps them, and clears their stale marks. Throws the first error after
   * trying all others.
   */
  days(days: readonly MerchantDay[]): Promise<void>;
  /** Makes readers of Redis distrust totals that are known to be wrong, until a call after their repair. */
  distrust(): Promise<void>;
  /**
   * Repairs all totals that Redis may have lost: of shards whose Redis restarted, or was emptied, since their last
   * repair. Merchants with pending events come first, then those of today. Returns how many merchants it repaired.
   */
  afterRestart(stopped?: () => boolean): Promise<number>;
  /** Returns how many shards have totals to repair. */
  unrepaired(): Promise<number>;
};

/** Merchants repaired under one set of locks; the flush skips them meanwhile. */
const MERCHANTS_AT_ONCE = 20;
/** A repair beside others of its shard reads the totals again, up to this many times. */
const ATTEMPTS = 5;

/**
 * Corrects running totals from Postgres and pending events by adding the difference: a total is never replaced, so
 * traffic and repair never disturb each other.
 */
export function createRepair(options: {
  counters: Counters;
  pending: Pending;
  db: Pick<Db, 'journal' | 'storedForms' | 'usage'>;
  now: () => number;
  fault: FaultPoint;
}): Repair {
  const { counters, pending, db, now, fault } = options;
  const { keys } = counters;
  /** False at first: an earlier process may have left some merchants distrusted. */
  let nothingDistrusted = false;

  const liveDays = () => eachDay(addDays(dayOf(now()), -LIVE_DAYS), addDays(dayOf(now()), 1));

  /** Repairs days of merchants of one shard. */
  async function repairDays(shard: number, days: readonly MerchantDay[]): Promise<void> {
    const merchantIds = [...new Set(days.map((day) => day.merchantId))];
    const dates = days.map((day) => day.date).sort();
    await db.journal.exclusively(merchantIds, async (transaction) => {
      const scope = { merchantIds, startDate: dates[0]!, endDate: dates.at(-1)! };
      const sums = new Map<string, Map<string, Units>>();
      for (const row of await db.storedForms.sums(scope, transaction)) {
        const name = `${row.merchantId}\n${row.date}`;
        sums.set(name, (sums.get(name) ?? new Map()).set(row.metricType, row.units));
      }
      const sumsOf = ({ merchantId, date }: MerchantDay): ReadonlyMap<string, Units> =>
        sums.get(`${merchantId}\n${date}`) ?? new Map();
      const wanted = days.map((day) => ({ ...day, metricTypes: [...sumsOf(day).keys()] }));
      for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
        const repairs = await counters.repairs(shard);
        const compared = await pending.compare(shard, wanted, transaction);
        await fault('reconcile.before-set');
        const differences = compared.flatMap((day) => differencesOf(day, sumsOf(day)));
        if (await counters.addDifferences(shard, repairs, differences)) return;
      }
      throw new Error(`other repairs of shard ${shard} kept this one from ending`);
    });
  }

  /** Groups days of one shard each, as many as are repaired under one set of locks. */
  function groupsOf(days: readonly MerchantDay[]): { shard: number; days: MerchantDay[] }[] {
    const groups: { shard: number; days: MerchantDay[] }[] = [];
    const open = new Map<number, MerchantDay[]>();
    for (const day of days) {
      const shard = keys.shardOf(day.merchantId);
      let group = open.get(shard);
      if (!group || group.length >= MERCHANTS_AT_ONCE) {
        group = [];
        open.set(shard, group);
        groups.push({ shard, days: group });
      }
      group.push(day);
    }
    return groups;
  }

  async function shardsToRepair(): Promise<Map<number, string>> {
    const lives = await counters.lives();
    return new Map(lives.flatMap(({ run, repaired }, shard) => (repaired ? [] : [[shard, run]])));
  }

  /** Yields each merchant once, those first that are likely to be queried first. */
  async function merchantsByUrgency(): Promise<string[]> {
    const today = dayOf(now());
    const days = liveDays();
    return [
      ...new Set([
        ...(await counters.waitingMerchants()),
        ...(await db.storedForms.merchants(today, today)),
        ...(await db.storedForms.merchants(days[0]!, days.at(-1)!)),
      ]),
    ];
  }

  return {
    async days(days) {
      if (days.length === 0) return;
      const before = await db.storedForms.now();
      const live = new Set<Day>(liveDays());
      const failures: unknown[] = [];
      for (const { shard, days: own } of groupsOf(days)) {
        try {
          const kept = own.filter((day) => live.has(day.date));
          if (kept.length > 0) await repairDays(shard, kept);
          await db.storedForms.settled(own, before);
        } catch (error) {
          // One shard that cannot be compared now must not delay the others.
          failures.push(error);
        }
      }
      if (failures.length > 0) throw failures[0];
    },

    async distrust() {
      const merchants = await db.storedForms.staleMerchants();
      if (merchants.length === 0 && nothingDistrusted) return;
      await counters.distrust(merchants);
      nothingDistrusted = merchants.length === 0;
    },

    unrepaired: async () => (await shardsToRepair()).size,

    async afterRestart(stopped = () => false) {
      const shards = await shardsToRepair();
      if (shards.size === 0) return 0;
      // A snapshot of Redis may have distrusted merchants, too.
      nothingDistrusted = false;
      for (const [shard, run] of shards) await counters.markRepaired(shard, run, 'begin');
      const merchants = (await merchantsByUrgency()).filter((merchantId) => shards.has(keys.shardOf(merchantId)));
      let repaired = 0;
      const dates = liveDays();
      const open = new Map<number, string[]>();
      const finish = async (shard: number) => {
        const own = open.get(shard) ?? [];
        open.delete(shard);
        await repairDays(
          shard,
          own.flatMap((merchantId) => dates.map((date) => ({ merchantId, date }))),
        );
        await counters.markRepaired(shard, shards.get(shard)!, own);
        repaired += own.length;
      };
      for (const merchantId of merchants) {
        if (stopped()) return repaired;
        const shard = keys.shardOf(merchantId);
        const own = open.get(shard) ?? [];
        open.set(shard, own);
        if (own.push(merchantId) >= MERCHANTS_AT_ONCE) await finish(shard);
      }
      for (const shard of [...open.keys()]) await finish(shard);
      for (const [shard, run] of shards) await counters.markRepaired(shard, run, 'end');
      return repaired;
    },
  };
}

/** Returns what the totals of a day lack, or have too much, beside what Postgres has and what is pending. */
function differencesOf(day: DayCompared, stored: ReadonlyMap<string, Units>): LiveTotal[] {
  const { merchantId, date, totals, outstanding } = day;
  const types = new Set([...stored.keys(), ...totals.keys(), ...outstanding.keys()]);
  return [...types].flatMap((metricType) => {
    const right = (stored.get(metricType) ?? 0n) + (outstanding.get(metricType) ?? 0n);
    const units = right - (totals.get(metricType) ?? 0n);
    return units === 0n ? [] : [{ merchantId, date, metricType, units }];
  });
}
