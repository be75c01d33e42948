import type { engine, RollupGrain } from '@tally/contracts';
import { assertMerchant, type Caller, type Handlers } from '@tally/service';
import type { Alerts } from './alerts/alerts.ts';
import type { Webhooks } from './alerts/webhooks.ts';
import type { Custom } from './custom/custom.ts';
import type { Sources } from './custom/sources.ts';
import type { Realtime } from './realtime/realtime.ts';
import type { Reconciled } from './realtime/reconcile.ts';
import type { RollupReader } from './rollups/read.ts';
import type { Rollups } from './rollups/rollups.ts';
import type { Schedule } from './schedule.ts';

export type Parts = {
  rollups: Rollups;
  reader: RollupReader;
  custom: Custom;
  sources: Sources;
  schedule: Schedule;
  realtime: Realtime;
  alerts: Alerts;
  webhooks: Webhooks;
  reconcileRealtime(): Promise<Reconciled>;
};

/** metrics-engine's procedures: each narrows the question to what the caller may see, and asks. */
export function createHandlers({
  rollups,
  reader,
  custom,
  sources,
  schedule,
  realtime,
  alerts,
  webhooks,
  reconcileRealtime,
}: Parts): Handlers<typeof engine> {
  const grain = (name: RollupGrain): Handlers<typeof engine>['rollups'][RollupGrain] => ({
    run: async ({ input }) => rollups.run(name, input),
    backfill: async ({ input }) => rollups.backfill(name, input),
    list: async ({ input, caller }) =>
      reader.list(name, { ...input, merchantId: merchantOf(caller, input.merchantId) }),
  });

  return {
    rollups: {
      daily: grain('daily'),
      weekly: grain('weekly'),
      monthly: grain('monthly'),
      refresh: async () => rollups.refresh(),
    },
    jobs: {
      log: async ({ input }) => reader.log(input),
      schedules: async () => ({ rows: await schedule.list(), nextCursor: null }),
      failed: async ({ input }) => ({ rows: await schedule.failed(input.limit), nextCursor: null }),
      run: async ({ input }) => ({ id: await schedule.run(input.name) }),
      async retry({ input }) {
        await schedule.retry(input.id);
        return { id: input.id, retried: true };
      },
    },
    realtime: {
      async increment({ input, caller }) {
        await realtime.increment(scoped(caller, input), input.by);
        return { ok: true };
      },
      async gauge({ input, caller }) {
        await realtime.gauge(scoped(caller, input), input.value, input.unit);
        return { ok: true };
      },
      async observe({ input, caller }) {
        await realtime.observe(scoped(caller, input), input.values, input.windowSeconds);
        return { ok: true };
      },
      async mark({ input, caller }) {
        await realtime.mark(scoped(caller, input), input.count, input.windowSeconds);
        return { ok: true };
      },
      get: async ({ input, caller }) => realtime.get(scoped(caller, input), input.windowSeconds),
      list: async ({ input, caller }) => realtime.list(merchantOf(caller, input.merchantId) ?? null, input),
      reconcile: async () => reconcileRealtime(),
      watch: ({ input, caller, signal }) =>
        realtime.watch(scoped(caller, input), input.windowSeconds, caller.id, signal),
    },
    alerts: {
      create: async ({ input, caller }) => alerts.create(input, caller),
      update: async ({ input }) => alerts.update(input),
      list: async () => alerts.list(),
      remove: async ({ input }) => alerts.remove(input),
      test: async ({ input }) => alerts.test(input),
      history: async ({ input }) => alerts.history(input),
    },
    webhooks: {
      create: async ({ input, caller }) => webhooks.create(input, caller),
      update: async ({ input }) => webhooks.update(input),
      list: async () => webhooks.list(),
      remove: async ({ input }) => webhooks.remove(input),
      deliveries: async ({ input }) => webhooks.deliveries(input),
      replay: async ({ input }) => webhooks.replay(input),
      test: async ({ input }) => webhooks.test(input),
    },
    custom: {
      create: async ({ input: { merchantId, ...fields }, caller }) =>
        custom.create(viewerOf(caller), merchantOf(caller, merchantId) ?? null, fields),
      update: async ({ input: { id, ...changes }, caller }) => custom.update(viewerOf(caller), id, changes),
      test: async ({ input, caller }) => custom.test(viewerOf(caller), scoped(caller, input)),
      estimate: async ({ input, caller }) => custom.estimate(viewerOf(caller), scoped(caller, input)),
      calculate: async ({ input, caller }) => custom.calculate(viewerOf(caller), scoped(caller, input)),
      get: async ({ input, caller }) => custom.get(viewerOf(caller), input.id, input.version),
      list: async ({ input, caller }) => custom.list(viewerOf(caller), input),
      versions: async ({ input, caller }) => custom.versions(viewerOf(caller), input.id, input),
      values: async ({ input, caller }) =>
        custom.values(viewerOf(caller), input.id, merchantOf(caller, input.merchantId) ?? null, input.limit),
      audit: async ({ input, caller }) => custom.audit(viewerOf(caller), input.id, input),
      remove: async ({ input, caller }) => custom.remove(viewerOf(caller), input.id),
      sources: {
        register: async ({ input }) => sources.register(input),
        list: async () => sources.list(),
        remove: async ({ input }) => sources.remove(input.name),
      },
    },
  };
}

const viewerOf = ({ id, merchantId, teamId, role }: Caller) => ({ id, merchantId, teamId, all: role === 'admin' });

function scoped<I extends { merchantId?: string | undefined }>(caller: Caller, input: I) {
  return { ...input, merchantId: merchantOf(caller, input.merchantId) ?? null };
}

/** The merchant a call is about: the bound one, or the one named; undefined: none named by a caller that is not bound. */
function merchantOf(caller: Caller, named: string | undefined): string | undefined {
  if (named !== undefined) assertMerchant(caller, named);
  return caller.merchantId ?? named;
}
