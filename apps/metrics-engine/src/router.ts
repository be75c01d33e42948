import type { engine, RollupGrain } from '@tally/contracts';
import type { Caller, Handlers } from '@tally/service';
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

/** metrics-engine's procedures: each calls one function and returns its result. */
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
    list: async ({ input }) => reader.list(name, input),
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
      failed: async ({ input }) => schedule.failed(input),
      run: async ({ input }) => ({ id: await schedule.run(input.name) }),
      async retry({ input }) {
        await schedule.retry(input.id);
        return { id: input.id, retried: true };
      },
    },
    realtime: {
      async increment({ input }) {
        await realtime.increment(scoped(input), input.by);
        return { ok: true };
      },
      async gauge({ input }) {
        await realtime.gauge(scoped(input), input.value, input.unit);
        return { ok: true };
      },
      async observe({ input }) {
        await realtime.observe(scoped(input), input.values, input.windowSeconds);
        return { ok: true };
      },
      async mark({ input }) {
        await realtime.mark(scoped(input), input.count, input.windowSeconds);
        return { ok: true };
      },
      get: async ({ input }) => realtime.get(scoped(input), input.windowSeconds),
      list: async ({ input }) => realtime.list(input.merchantId ?? null, input),
      reconcile: async () => reconcileRealtime(),
      watch: ({ input, caller, signal }) => realtime.watch(scoped(input), input.windowSeconds, caller.id, signal),
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
        custom.create(viewerOf(caller), merchantId ?? null, fields),
      update: async ({ input: { id, ...changes }, caller }) => custom.update(viewerOf(caller), id, changes),
      test: async ({ input, caller }) => custom.test(viewerOf(caller), scoped(input)),
      estimate: async ({ input, caller }) => custom.estimate(viewerOf(caller), scoped(input)),
      calculate: async ({ input, caller }) => custom.calculate(viewerOf(caller), scoped(input)),
      get: async ({ input, caller }) => custom.get(viewerOf(caller), input.id, input.version),
      list: async ({ input, caller }) => custom.list(viewerOf(caller), input),
      versions: async ({ input, caller }) => custom.versions(viewerOf(caller), input.id, input),
      values: async ({ input, caller }) => custom.values(viewerOf(caller), input.id, input),
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

const scoped = <I extends { merchantId?: string | undefined }>(input: I) => ({
  ...input,
  merchantId: input.merchantId ?? null,
});
