import type { ingest } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Handlers, type Log, type RedisClient } from '@tally/service';
import type { Accept } from '../accept.ts';
import { createBudgets } from './budgets.ts';
import { createLedger } from './ledger.ts';
import { createBudgetRegistry } from './registry.ts';
import { createReservations } from './reservations.ts';
import { createSpend, type Spend } from './spend.ts';

export type BudgetService = {
  handlers: Handlers<Pick<typeof ingest, 'budgets'>>;
  /** Loads the budgets. Rejects if no store has them. */
  refresh(): Promise<void>;
  /** Counts accepted events in budgets until Postgres shows them. */
  note: Spend['note'];
  /** Copies spend from Postgres to Redis, repeatedly. */
  start: Spend['start'];
};

/** Budgets: admins define them, producers reserve and settle. */
export function createBudgetService(options: {
  db: Pick<Db, 'budgets' | 'meters'>;
  redis: RedisClient;
  accept: Pick<Accept, 'record'>;
  /** Flushes everything acknowledged before the call; returns true if nothing is left. */
  drain(): Promise<boolean>;
  /** Flushes pending events of these merchants, or of all, for a bounded time. Never throws. */
  flushSoon(merchantIds?: readonly string[]): Promise<unknown>;
  log: Log;
  now: () => number;
}): BudgetService {
  const { db, redis, accept, log, now } = options;
  const registry = createBudgetRegistry({ store: db.budgets, redis, now });
  const ledger = createLedger(redis);
  const onError = failureLog(log, 'spend of budgets was not read or noted; it is tried again', { level: 'warn' });
  const onDegraded = failureLog(log, 'budgets could not be asked; their settings decided', { level: 'warn' });
  const spend = createSpend({ ledger, registry, store: db.budgets, drain: options.drain, now, onError });
  const budgets = createBudgets({
    ...{ store: db.budgets, meters: db.meters, registry, ledger, spend, now },
    flushSoon: options.flushSoon,
  });
  const reservations = createReservations({ registry, ledger, spend, accept, now, onDegraded });
  return {
    refresh: registry.refresh,
    note: spend.note,
    start: spend.start,
    handlers: {
      budgets: {
        create: async ({ input, caller }) => budgets.create(input, caller),
        update: async ({ input, caller }) => budgets.update(input, caller),
        get: async ({ input, caller }) => budgets.get(input, caller),
        list: async ({ input, caller }) => budgets.list(input, caller),
        remove: async ({ input, caller }) => budgets.remove(input, caller),
        status: async ({ input, caller }) => budgets.status(input, caller),
        reserve: async ({ input, caller }) => reservations.reserve(input, caller),
        check: async ({ input, caller }) => reservations.check(input, caller),
        reserveMany: async ({ input, caller }) => reservations.reserveMany(input, caller),
        settle: async ({ input, caller }) => reservations.settle(input, caller),
        settleMany: async ({ input, caller }) => reservations.settleMany(input, caller),
        release: async ({ input, caller }) => reservations.release(input, caller),
      },
    },
  };
}
