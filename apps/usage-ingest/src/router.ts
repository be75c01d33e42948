import { grants, type ingest, TallyError } from '@tally/contracts';
import type { FairQueue, Handlers } from '@tally/service';
import { type Accept, presentAccepted } from './accept.ts';
import type { Adjust } from './adjust.ts';
import type { AuditLog } from './audit-log.ts';
import type { BudgetService } from './budgets/index.ts';
import type { Changes } from './changes.ts';
import type { Conflicts } from './conflicts.ts';
import type { CurrentTotals } from './current.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { EraseUser } from './erase.ts';
import type { Explain } from './explain.ts';
import { type Flush, MAX_RANGE_DAYS } from './flush/flush.ts';
import type { Keys } from './keys.ts';
import type { Meters } from './meters/meters.ts';
import type { Scales } from './meters/registry.ts';
import type { PricedByClass } from './prices/classes.ts';
import type { Prices } from './prices/prices.ts';
import type { Rerate } from './prices/rerate.ts';
import { assertRange } from './ranges.ts';
import type { RecentEntries } from './recent.ts';
import { presentDrift, presentMeterDrift, type Reconcile } from './reconcile/index.ts';
import type { CloseDays } from './retention.ts';
import type { Sessions } from './sessions.ts';
import type { Sources } from './sources/index.ts';
import type { Track } from './track.ts';
import type { VoidEvent } from './void.ts';

export type Parts = {
  accept: Accept;
  track: Track;
  current: CurrentTotals;
  changes: Changes;
  conflicts: Conflicts;
  recent: RecentEntries;
  explain: Explain;
  adjust: Adjust;
  voidEvent: VoidEvent;
  reconcile: Reconcile;
  deadLetters: DeadLetters;
  eraseUser: EraseUser;
  closeDays: CloseDays;
  flush: Flush;
  keys: Keys;
  meters: Meters;
  scales: Scales;
  sessions: Sessions;
  prices: Prices;
  pricedByClass: PricedByClass;
  rerate: Rerate;
  budgets: Pick<BudgetService, 'handlers'>;
  audit: AuditLog;
  sources: Pick<Sources, 'handlers'>;
  /** The queue of reads that take long. */
  queue: FairQueue;
};

/** usage-ingest's procedures: each calls one function and returns its result. */
export function createHandlers(parts: Parts): Handlers<typeof ingest> {
  const { accept, track, current, recent, explain, adjust, reconcile, deadLetters, closeDays, flush } = parts;
  const { voidEvent, keys, meters, scales, sessions, prices, audit, queue } = parts;
  return {
    usage: {
      async record({ input, caller, event }) {
        if (input.backfill && !grants(caller.role, 'admin')) {
          throw new TallyError('FORBIDDEN', 'Only an admin may backfill.');
        }
        const accepted = await accept.record({
          entries: input.entries,
          backfill: input.backfill ?? false,
          boundTo: caller.merchantId,
          callerId: caller.id,
          // Tally's own sources compare the reports of a call themselves: they differ beside the amounts.
          isCompared: caller.role === 'service',
        });
        const result = presentAccepted(accepted);
        Object.assign(event, { ...result, rejected: result.rejected.length, warnings: result.warnings.length });
        return result;
      },
      track: async ({ input }) => track.track(input),
      current: async ({ input }) => current(input),
      recent: async ({ input, caller }) => ({
        ...(await queue(caller.id, () => recent(input.merchantId, input.limit))),
        nextCursor: null,
      }),
      async explain({ input, caller }) {
        const { date, startDate = date!, endDate = date! } = input;
        assertRange({ startDate, endDate }, MAX_RANGE_DAYS);
        return queue(caller.id, () => explain({ ...input, startDate, endDate }));
      },
      changes: async ({ input, caller }) => queue(caller.id, () => parts.changes(input)),
      async conflicts({ input, caller }) {
        assertRange(input, MAX_RANGE_DAYS);
        const merchantIds = input.merchantId === undefined ? undefined : [input.merchantId];
        return queue(caller.id, () => parts.conflicts({ ...input, merchantIds }));
      },
      adjust: async ({ input, caller }) => adjust(input, caller.id),
      void: async ({ input, caller }) => voidEvent(input, caller.id),
    },
    reconcile: {
      async check({ input, isGone }) {
        assertRange(input, MAX_RANGE_DAYS);
        const report = await reconcile.check(input, isGone);
        const scaleOf = await scales(report.drift.map(({ metricType }) => metricType));
        return {
          ...report,
          drift: report.drift.map((each) => presentDrift(each, scaleOf)),
          meters: report.meters.map(presentMeterDrift),
        };
      },
      async rebuild({ input }) {
        assertRange(input, MAX_RANGE_DAYS);
        return reconcile.rebuild(input);
      },
      async repair({ isGone }) {
        const { balanced, drift, meters, repaired } = await reconcile.repair(isGone);
        const scaleOf = await scales(drift.map(({ metricType }) => metricType));
        return {
          balanced,
          drift: drift.map((each) => presentDrift(each, scaleOf)),
          meters: meters.map(presentMeterDrift),
          repaired,
        };
      },
    },
    deadLetters: {
      list: async ({ input }) => deadLetters.list(input),
      retry: async ({ input }) => deadLetters.retry(input),
    },
    journal: {
      close: async () => ({ closed: await closeDays() }),
    },
    flush: {
      run: async ({ input }) => flush.run(input),
      merchant: async ({ input }) => flush.run(input),
      async range({ input: { startDate, endDate } }) {
        assertRange({ startDate, endDate }, MAX_RANGE_DAYS);
        const started = performance.now();
        const days = await flush.range(startDate, endDate);
        return {
          success: days.every((day) => day.success),
          days,
          durationMs: Math.round(performance.now() - started),
        };
      },
      status: async ({ input }) => flush.status(input.date),
      async drain({ input: { merchantIds } }) {
        const report = await (merchantIds ? flush.drainMerchants(merchantIds) : flush.drainAll());
        return flushed({ ...report, complete: report.errors.length === 0 });
      },
      beforeRead: async ({ input: { merchantIds } }) => flushed(await flush.beforeRead(merchantIds)),
    },
    keys: {
      create: async ({ input, caller }) => keys.create(input, caller),
      rotate: async ({ input }) => keys.rotate(input),
      list: async ({ input }) => keys.list(input),
      revoke: async ({ input, caller }) => keys.revoke(input, caller),
    },
    meters: {
      create: async ({ input, caller }) => meters.create(input, caller.id),
      update: async ({ input, caller }) => meters.update(input, caller.id),
      list: async ({ input }) => meters.list(input),
      get: async ({ input }) => meters.get(input),
      remove: async ({ input }) => meters.remove(input),
      rebuild: async ({ input }) => meters.rebuild(input),
    },
    sessions: {
      create: async ({ caller }) => sessions.create(caller),
      current: async ({ caller }) => sessions.current(caller),
      end: async ({ caller }) => sessions.end(caller),
    },
    prices: {
      set: async ({ input, caller }) => prices.set(input, caller),
      list: async ({ input }) => prices.list(input),
      remove: async ({ input }) => prices.remove(input),
      import: async ({ input, caller }) => prices.import(input, caller),
      async rerate({ input, caller }) {
        assertRange(input, MAX_RANGE_DAYS);
        return parts.rerate(input, caller.id);
      },
      async classes({ input, caller }) {
        assertRange(input, MAX_RANGE_DAYS);
        return queue(caller.id, () => parts.pricedByClass(input));
      },
      async unpriced({ input, caller }) {
        assertRange(input, MAX_RANGE_DAYS);
        return queue(caller.id, () => prices.unpriced(input));
      },
    },
    audit: {
      list: async ({ input }) => audit(input),
    },
    users: {
      erase: async ({ input, caller }) => parts.eraseUser(input, caller),
    },
    ...parts.budgets.handlers,
    ...parts.sources.handlers,
  };
}

function flushed({ inserted, complete, asOf }: { inserted: number; complete: boolean; asOf: number }) {
  return { recordsAggregated: inserted, complete, asOf: new Date(asOf).toISOString() };
}
