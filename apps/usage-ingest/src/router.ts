import { countDays, grants, type ingest, TallyError } from '@tally/contracts';
import { assertMerchant, type Caller, type Handlers, merchantsFor } from '@tally/service';
import { type Accept, presentAccepted } from './accept.ts';
import type { Adjust } from './adjust.ts';
import type { AuditLog } from './audit-log.ts';
import type { Budgets } from './budgets/budgets.ts';
import type { Changes } from './changes.ts';
import type { Conflicts } from './conflicts.ts';
import type { CurrentTotals } from './current.ts';
import type { DeadLetters } from './dead-letters.ts';
import type { Explain } from './explain.ts';
import { type Flush, MAX_RANGE_DAYS } from './flush/flush.ts';
import type { Keys } from './keys.ts';
import type { Meters } from './meters/meters.ts';
import type { Prices } from './prices/prices.ts';
import type { RecentEntries } from './recent.ts';
import { presentDrift, type Reconcile } from './reconcile/index.ts';
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
  closeDays: CloseDays;
  flush: Flush;
  keys: Keys;
  meters: Meters;
  sessions: Sessions;
  prices: Prices;
  budgets: Budgets;
  audit: AuditLog;
  sources: Pick<Sources, 'handlers'>;
};

/** usage-ingest's procedures: each checks whom it is about, calls one function, and returns. */
export function createHandlers(parts: Parts): Handlers<typeof ingest> {
  const { accept, track, current, recent, explain, adjust, reconcile, deadLetters, closeDays, flush } = parts;
  const { voidEvent, keys, meters, sessions, prices, budgets, audit } = parts;
  /** A bound caller's merchant, else the one that is named. */
  const ofMerchant = <Named extends { merchantId?: string | undefined }>(caller: Caller, named: Named) => {
    const [merchantId] = merchantsFor(caller, named.merchantId === undefined ? undefined : [named.merchantId]) ?? [];
    return { ...named, merchantId };
  };
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
          // Tally's own sources compare the reports of a call themselves: they differ beside the amounts.
          isCompared: caller.role === 'service',
        });
        const result = presentAccepted(accepted);
        Object.assign(event, { ...result, rejected: result.rejected.length, warnings: result.warnings.length });
        return result;
      },
      async track({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return track.track(input);
      },
      async current({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return current(input);
      },
      async recent({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return { ...(await recent(input.merchantId, input.limit)), nextCursor: null };
      },
      async explain({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        const { date, startDate = date!, endDate = date! } = input;
        assertRange(startDate, endDate);
        return explain({ ...input, startDate, endDate });
      },
      changes: async ({ input, caller }) => parts.changes({ ...input, merchantIds: merchantsFor(caller, undefined) }),
      async conflicts({ input, caller }) {
        assertRange(input.startDate, input.endDate);
        const merchantIds = merchantsFor(caller, input.merchantId === undefined ? undefined : [input.merchantId]);
        return parts.conflicts({ ...input, merchantIds });
      },
      async adjust({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return adjust(input, caller.id);
      },
      async void({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return voidEvent(input, caller.id);
      },
    },
    reconcile: {
      async check({ input: { startDate, endDate, merchantIds }, caller, isGone }) {
        assertRange(startDate, endDate);
        const scope = { startDate, endDate, merchantIds: merchantsFor(caller, merchantIds) };
        const report = await reconcile.check(scope, isGone);
        return { ...report, drift: report.drift.map(presentDrift) };
      },
      async rebuild({ input: { startDate, endDate, merchantIds }, caller }) {
        assertRange(startDate, endDate);
        return reconcile.rebuild({ startDate, endDate, merchantIds: merchantsFor(caller, merchantIds) });
      },
      async repair({ isGone }) {
        const { balanced, drift, repaired } = await reconcile.repair(isGone);
        return { balanced, drift: drift.map(presentDrift), repaired };
      },
    },
    deadLetters: {
      async list({ input, caller }) {
        const [merchantId] =
          merchantsFor(caller, input.merchantId === undefined ? undefined : [input.merchantId]) ?? [];
        return deadLetters.list({ ...input, merchantId });
      },
      async retry({ input, caller }) {
        const [merchantId] =
          merchantsFor(caller, input.merchantId === undefined ? undefined : [input.merchantId]) ?? [];
        return deadLetters.retry({ ...input, merchantId });
      },
    },
    journal: {
      close: async () => ({ closed: await closeDays() }),
    },
    flush: {
      run: async ({ input }) => flush.run(input),
      async merchant({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return flush.run(input);
      },
      async range({ input: { startDate, endDate } }) {
        assertRange(startDate, endDate);
        const started = performance.now();
        const days = await flush.range(startDate, endDate);
        return {
          success: days.every((day) => day.success),
          days,
          durationMs: Math.round(performance.now() - started),
        };
      },
      status: async ({ input }) => flush.status(input.date),
      async drain({ input, caller }) {
        const merchantIds = caller.merchantId === null ? input.merchantIds : merchantsFor(caller, input.merchantIds);
        const drained = await (merchantIds ? flush.drainMerchants(merchantIds) : flush.drainAll());
        return {
          recordsAggregated: drained.inserted,
          complete: drained.errors.length === 0,
          asOf: new Date(drained.asOf).toISOString(),
        };
      },
    },
    keys: {
      create: async ({ input, caller }) => keys.create(input, caller),
      rotate: async ({ input }) => keys.rotate(input),
      list: async ({ input }) => keys.list(input),
      revoke: async ({ input, caller }) => keys.revoke(input, caller),
    },
    meters: {
      create: async ({ input, caller }) => meters.create(ofMerchant(caller, input), caller.id),
      update: async ({ input, caller }) => meters.update(ofMerchant(caller, input), caller.id),
      list: async ({ input, caller }) => meters.list(ofMerchant(caller, input)),
      get: async ({ input, caller }) => meters.get(ofMerchant(caller, input)),
      remove: async ({ input, caller }) => meters.remove(ofMerchant(caller, input)),
      rebuild: async ({ input, caller }) => meters.rebuild(ofMerchant(caller, input)),
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
      async unpriced({ input, caller }) {
        assertRange(input.startDate, input.endDate);
        return prices.unpriced({ ...input, merchantIds: merchantsFor(caller, input.merchantIds) });
      },
    },
    budgets: {
      create: async ({ input, caller }) => budgets.create(input, caller),
      update: async ({ input, caller }) => budgets.update(input, caller),
      get: async ({ input, caller }) => budgets.get(input, caller),
      list: async ({ input, caller }) => budgets.list(input, caller),
      remove: async ({ input, caller }) => budgets.remove(input, caller),
      status: async ({ input, caller }) => budgets.status(input, caller),
      async reserve({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return budgets.reserve(input, caller);
      },
      settle: async ({ input, caller }) => budgets.settle(input, caller),
      release: async ({ input, caller }) => budgets.release(input, caller),
    },
    audit: {
      list: async ({ input }) => audit(input),
    },
    ...parts.sources.handlers,
  };
}

function assertRange(startDate: string, endDate: string): void {
  if (startDate > endDate) throw new TallyError('INVALID_DATE_ORDER', 'startDate is after endDate.');
  const days = countDays(startDate, endDate);
  if (days > MAX_RANGE_DAYS) {
    throw new TallyError('DATE_RANGE_TOO_LARGE', `${days} days; at most ${MAX_RANGE_DAYS} at once.`);
  }
}
