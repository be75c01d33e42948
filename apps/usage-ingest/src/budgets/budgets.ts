import { createHash } from 'node:crypto';
import {
  type Budget,
  type BudgetStatus,
  formatQuantity,
  type ingest,
  MAX_SUM_UNITS,
  parseQuantity,
  percentOf,
  TallyError,
  type Units,
} from '@tally/contracts';
import type { BudgetRow, Db, NewBudget } from '@tally/db';
import { assertMerchant, type Caller, decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import type { Accept } from '../accept.ts';
import { type Ledger, RebuildNeeded, type Reserved, type Settlement } from './ledger.ts';
import { type BudgetList, type BudgetRegistry, slotOf } from './registry.ts';
import type { Spend } from './spend.ts';

type Input<Name extends keyof typeof ingest.budgets> = z.output<(typeof ingest.budgets)[Name]['input']>;
type Output<Name extends keyof typeof ingest.budgets> = z.input<(typeof ingest.budgets)[Name]['output']>;

export type Budgets = ReturnType<typeof createBudgets>;

/** A request waits this long for spend to be rebuilt; then each budget's setting decides. */
const PATIENCE_MS = 5_000;

/** Budgets: admins define them, producers reserve and settle. */
export function createBudgets(options: {
  store: Db['budgets'];
  registry: BudgetRegistry;
  ledger: Ledger;
  spend: Spend;
  accept: Pick<Accept, 'record'>;
  now: () => number;
  onDegraded(error: unknown): void;
}) {
  const { store, registry, ledger, spend, now } = options;

  /** Makes a change known to this process and to Redis. Where that fails, the loop does it. */
  async function publish(): Promise<void> {
    await registry.refresh().catch(() => {});
    await spend.read().catch(() => {});
  }

  async function known(id: string, caller: Caller): Promise<BudgetRow> {
    const row = await store.find(id);
    // Of another merchant's budget nothing is said, not even that it exists.
    if (!row || (caller.merchantId !== null && row.merchantId !== caller.merchantId))
      throw new TallyError('NOT_FOUND', `There is no budget ${id}.`);
    return row;
  }

  async function listNow(): Promise<BudgetList> {
    const list = registry.current();
    if (list) return list;
    await registry.refresh().catch((cause: unknown) => {
      throw new TallyError('UNAVAILABLE', 'The budgets are not known yet: no store answers.', { cause });
    });
    return registry.current()!;
  }

  /** Decides a request, after what was spent is rebuilt where that is needed. */
  async function decide(request: Parameters<Ledger['reserve']>[0]): Promise<Reserved> {
    try {
      const reserved = await ledger.reserve(request);
      if (reserved.verdict !== 'unknown') return reserved;
    } catch (error) {
      if (!(error instanceof RebuildNeeded)) throw error;
    }
    await within(PATIENCE_MS, spend.read());
    const reserved = await ledger.reserve(request);
    if (reserved.verdict === 'unknown') throw new Error('what was spent of a budget is not known');
    return reserved;
  }

  return {
    async create(input: Input<'create'>, caller: Caller): Promise<Budget> {
      const { scope, limit, ...fields } = input;
      const { merchantId = caller.merchantId ?? '', userId = '', apiKey = '', model = '' } = scope;
      assertMayName(caller, merchantId);
      const budget: NewBudget = {
        ...fields,
        name: fields.name ?? `${fields.measure} by ${fields.period}`,
        ...{ merchantId, userId, apiKey, model },
        limit: unitsOf(fields.measure, limit, 'limit').toString(),
        createdBy: caller.id,
      };
      const row = await store.create(budget, new Date(now()));
      await publish();
      return present(row);
    },
    async update({ id, limit, ...change }: Input<'update'>, caller: Caller): Promise<Budget> {
      const { measure } = await known(id, caller);
      const units = limit === undefined ? {} : { limit: unitsOf(measure, limit, 'limit').toString() };
      const fields = Object.entries(change).filter(([, value]) => value !== undefined);
      const row = await store.update(id, { ...Object.fromEntries(fields), ...units });
      await publish();
      return present(row);
    },
    async remove({ id }: Input<'remove'>, caller: Caller): Promise<Budget> {
      await known(id, caller);
      const row = await store.remove(id, new Date(now()));
      await publish();
      return present(row);
    },
    get: async ({ id }: Input<'get'>, caller: Caller): Promise<Budget> => present(await known(id, caller)),
    async list({ limit, cursor, ...question }: Input<'list'>, caller: Caller): Promise<Output<'list'>> {
      if (question.merchantId !== undefined) assertMerchant(caller, question.merchantId);
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, question, z.tuple([z.uuid()]));
      const merchantId = question.merchantId ?? caller.merchantId ?? undefined;
      const rows = await store.list({ merchantId, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows: rows.map(present), nextCursor: last ? encodeCursor([last.id], question) : null };
    },

    async status({ id, merchantId: asked }: Input<'status'>, caller: Caller): Promise<Output<'status'>> {
      if (asked !== undefined) assertMerchant(caller, asked);
      if (id !== undefined) await known(id, caller);
      const merchantId = asked ?? caller.merchantId ?? undefined;
      const list = await listNow();
      const at = now();
      const chosen = list.budgets
        .filter(
          (budget) =>
            (id === undefined || budget.id === id) && (merchantId === undefined || budget.merchantId === merchantId),
        )
        .flatMap((budget) => {
          const span = list.spanOf(budget.id, at);
          return span ? [{ budget, span }] : [];
        });
      const slots = chosen.map(({ budget, span }) => slotOf(budget.id, span.start));
      const read = await ledger.read(slots).catch((): undefined[] => slots.map(() => undefined));
      const missing = read.includes(undefined);
      const periods = missing ? await store.periods(new Date(at)) : [];
      const rows = chosen.map(({ budget, span }, index): BudgetStatus => {
        const live = read[index];
        const stored = periods.find(({ budgetId, start }) => budgetId === budget.id && start === span.start);
        const { used, reserved } = live ?? { used: stored?.spent ?? 0n, reserved: 0n };
        const [limit, spent] = [BigInt(budget.limit), used - reserved];
        const format = (units: Units) => formatQuantity(budget.measure, units);
        return {
          budgetId: budget.id,
          periodStart: new Date(span.start).toISOString(),
          periodEnd: span.ends === null ? null : new Date(span.ends).toISOString(),
          limit: format(limit),
          spent: format(spent),
          reserved: format(reserved),
          remaining: format(limit - used),
          percent: percentOf(spent, limit),
          complete: live !== undefined,
        };
      });
      return { rows };
    },

    async reserve({ id, amounts, ttlSeconds, ...usage }: Input<'reserve'>, caller: Caller): Promise<Output<'reserve'>> {
      const list = await listNow();
      const at = now();
      const matched = list.matching(usage).flatMap((budget) => {
        const span = list.spanOf(budget.id, at);
        const amount = amounts[budget.measure] ?? (budget.measure === 'requests' ? '1' : '0');
        const units = unitsOf(budget.measure, amount, `amounts.${budget.measure}`);
        return [{ budget, span, amount: units.toString() }];
      });
      const reservationId = `${usage.merchantId}/${encodeURIComponent(id)}`;
      const answer = { reservationId, remaining: [], refusedBy: [], expiresAt: null, degraded: false };
      if (matched.length === 0) return { ...answer, allowed: true };
      const hard = matched.filter(({ budget }) => budget.enforcement === 'hard');
      try {
        // A period that is not known is one that Postgres could not be asked for.
        const parts = matched.map(({ budget, span, amount }) => {
          if (!span) throw new Error('the period is not known');
          const limit = budget.enforcement === 'hard' ? budget.limit : undefined;
          return { slot: slotOf(budget.id, span.start), limit, amount };
        });
        const digest = digestOf([usage, amounts]);
        const {
          verdict,
          expiresAt,
          parts: read,
        } = await decide({
          ...{ id: reservationId, lifetimeMs: ttlSeconds * 1_000, digest, parts },
        });
        if (verdict === 'conflict')
          throw new TallyError('CONFLICT', `Reservation ${id} of ${usage.merchantId} exists, with other contents.`);
        if (verdict === 'full')
          throw new TallyError('UNAVAILABLE', 'Too many reservations are open; settle or release some.');
        return {
          ...answer,
          allowed: verdict === 'allowed',
          reservationId: verdict === 'allowed' ? reservationId : null,
          // A caller that is bound to a merchant sees nothing of budgets for all merchants.
          remaining: matched.flatMap(({ budget }, index) =>
            caller.merchantId !== null && budget.merchantId === ''
              ? []
              : [
                  {
                    budgetId: budget.id,
                    remaining: formatQuantity(budget.measure, BigInt(budget.limit) - read[index]!.used),
                  },
                ],
          ),
          refusedBy: matched.filter((_, index) => read[index]!.refuses).map(({ budget }) => budget.id),
          expiresAt: verdict === 'allowed' ? new Date(expiresAt).toISOString() : null,
        };
      } catch (error) {
        if (error instanceof TallyError) throw error;
        options.onDegraded(error);
        const refusedBy = hard
          .filter(({ budget }) => budget.whenUnavailable === 'refuse')
          .map(({ budget }) => budget.id);
        const allowed = refusedBy.length === 0;
        return { ...answer, allowed, reservationId: allowed ? reservationId : null, refusedBy, degraded: true };
      }
    },

    async settle({ reservationId, entry }: Input<'settle'>, caller: Caller): Promise<Output<'settle'>> {
      const merchantId = merchantOf(reservationId, caller);
      const end = async (event?: Settlement['event']) => {
        const [open] = await ledger.settle([{ id: reservationId, ...(event && { event }) }]);
        return open!;
      };
      // Where Redis is unavailable the reservation is lost or expires, and usage is recorded all the same.
      if (entry === undefined) return { settled: await end().catch(() => false), accepted: 0, duplicates: 0 };
      let settled = false;
      const { accepted, repeats, rejected } = await options.accept.record({
        ...{ entries: [entry], backfill: false, boundTo: merchantId },
        async beforeStore([line]) {
          if (line)
            settled = await end({ identity: spend.identityOf(line), amounts: spend.amountsOf(line) }).catch(
              () => false,
            );
        },
      });
      const [refusal] = rejected;
      if (refusal) throw new TallyError(refusal.code as TallyError['code'], refusal.message);
      return { settled, accepted, duplicates: repeats.length };
    },

    async release({ reservationId }: Input<'release'>, caller: Caller): Promise<Output<'release'>> {
      merchantOf(reservationId, caller);
      const [released] = await ledger.settle([{ id: reservationId }]);
      return { released: released! };
    },
  };
}

/** A bound caller may define budgets of its own merchant only. */
function assertMayName(caller: Caller, merchantId: string): void {
  if (merchantId !== '') assertMerchant(caller, merchantId);
}

/** The merchant of a reservation; its own id has no slash. */
function merchantOf(reservationId: string, caller: Caller): string {
  const at = reservationId.lastIndexOf('/');
  if (at < 1) throw new TallyError('INVALID_INPUT', 'reservationId: Expected what budgets.reserve answered.');
  const merchantId = reservationId.slice(0, at);
  assertMerchant(caller, merchantId);
  return merchantId;
}

function unitsOf(measure: BudgetRow['measure'], text: string, field: string): Units {
  const units = parseQuantity(measure, text);
  if (units !== undefined && units <= MAX_SUM_UNITS / 10n) return units;
  const rule = measure === 'cost' ? 'USD with at most 9 decimals' : 'a whole number';
  throw new TallyError(
    'INVALID_INPUT',
    `${field}: Expected ${rule}, from 0 to ${formatQuantity(measure, MAX_SUM_UNITS / 10n)}.`,
  );
}

const digestOf = (value: unknown) =>
  createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 16);

function present(row: BudgetRow): Budget {
  return {
    id: row.id,
    name: row.name,
    scope: {
      merchantId: row.merchantId || null,
      userId: row.userId || null,
      apiKey: row.apiKey || null,
      model: row.model || null,
    },
    measure: row.measure,
    limit: formatQuantity(row.measure, BigInt(row.limit)),
    period: row.period,
    timeZone: row.timeZone,
    enforcement: row.enforcement,
    whenUnavailable: row.whenUnavailable,
    thresholds: row.thresholds,
    createdAt: row.createdAt.toISOString(),
    createdBy: row.createdBy,
    removedAt: row.removedAt?.toISOString() ?? null,
  };
}

/** Rejects when `work` takes longer than `ms`. */
async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms).unref();
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
