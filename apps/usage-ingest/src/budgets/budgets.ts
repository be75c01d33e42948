import { setTimeout as wait } from 'node:timers/promises';
import {
  BUILT_IN_METERS,
  type Budget,
  type BudgetStatus,
  type ingest,
  isMeasure,
  percentOf,
  TallyError,
} from '@tally/contracts';
import { type BudgetMeter, type BudgetRow, type Db, type NewBudget, unitOfBudget, unknownMeter } from '@tally/db';
import { assertMerchant, type Caller, decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import { FRESH_MS } from '../versioned-list.ts';
import { formatOf, unitsOf } from './amounts.ts';
import type { Ledger } from './ledger.ts';
import { type BudgetRegistry, listNow, slotOf } from './registry.ts';
import type { Spend } from './spend.ts';

type Input<Name extends keyof typeof ingest.budgets> = z.output<(typeof ingest.budgets)[Name]['input']>;
type Output<Name extends keyof typeof ingest.budgets> = z.input<(typeof ingest.budgets)[Name]['output']>;

/** Requests in progress elsewhere may have looked at the list just before it was published. */
const IN_FORCE_MS = 2 * FRESH_MS;

/** Budgets as admins define and read them. */
export function createBudgets(options: {
  store: Db['budgets'];
  meters: Pick<Db['meters'], 'find'>;
  registry: BudgetRegistry;
  ledger: Ledger;
  spend: Spend;
  /** Flushes pending events of these merchants, or of all, for a bounded time. Never throws. */
  flushSoon(merchantIds?: readonly string[]): Promise<unknown>;
  now: () => number;
}) {
  const { store, registry, ledger, spend, now } = options;

  /** Publishes a change: afterwards every process uses it. Throws UNAVAILABLE if it is saved, but not published yet. */
  async function publish({ id }: BudgetRow): Promise<void> {
    await registry.refresh().catch((cause: unknown) => {
      throw new TallyError(
        'UNAVAILABLE',
        `The change of budget ${id} is saved, but a store is unavailable: it is in force once the store answers.`,
        { cause },
      );
    });
    await Promise.all([spend.read().catch(() => {}), wait(IN_FORCE_MS)]);
  }

  async function known(id: string, caller: Caller): Promise<BudgetRow> {
    const row = await store.find(id);
    // Says nothing about another merchant's budget, not even that it exists.
    if (!row || (caller.merchantId !== null && row.merchantId !== caller.merchantId))
      throw new TallyError('NOT_FOUND', `There is no budget ${id}.`);
    return row;
  }

  /** Returns the meter of a new budget: the merchant's own, else the one for all, or a built-in one. */
  async function meterOf(key: string, merchantId: string): Promise<BudgetMeter> {
    const builtIn = BUILT_IN_METERS.find((meter) => meter.key === key);
    if (builtIn && !isMeasure(key) && key !== 'total_tokens')
      throw new TallyError('INVALID_INPUT', `meter: ${key} is of what Tally priced; limit the measure cost instead.`);
    const own = builtIn || merchantId === '' ? undefined : await options.meters.find({ key, merchantId });
    const found = builtIn ?? own ?? (await options.meters.find({ key, merchantId: '' }));
    if (!found) throw unknownMeter(key);
    const { unit, aggregation, metricType, valueProperty, eventType, filters } = found;
    if (aggregation !== 'SUM' && aggregation !== 'COUNT')
      throw new TallyError(
        'INVALID_INPUT',
        `meter: ${key} is ${aggregation}; a budget limits a meter of SUM or COUNT.`,
      );
    const scale = aggregation === 'COUNT' ? 0 : found.scale;
    return { key, unit, scale, aggregation, metricType, valueProperty, eventType, filters };
  }

  return {
    async create(input: Input<'create'>, caller: Caller): Promise<Budget> {
      const { scope, limit, measure = 'meter', meter: key, ...fields } = input;
      const { merchantId = caller.merchantId ?? '', team = '', userId = '', apiKey = '', model = '' } = scope;
      assertMayName(caller, merchantId);
      const meter = key === undefined ? null : await meterOf(key, merchantId);
      const budget: NewBudget = {
        ...{ ...fields, measure, meter },
        name: fields.name ?? `${key ?? measure} by ${fields.period}`,
        ...{ merchantId, team, userId, apiKey, model },
        limit: unitsOf({ measure, meter }, limit, 'limit').toString(),
        createdBy: caller.id,
      };
      const row = await store.create(budget, new Date(now()));
      await publish(row);
      // Usage that was accepted before every process knew the budget has no note: it counts once it is flushed.
      await options.flushSoon(merchantId === '' ? undefined : [merchantId]);
      await spend.readAgain().catch(() => {});
      return present(row);
    },
    async update({ id, limit, ...change }: Input<'update'>, caller: Caller): Promise<Budget> {
      const before = await known(id, caller);
      const units = limit === undefined ? {} : { limit: unitsOf(before, limit, 'limit').toString() };
      const fields = Object.entries(change).filter(([, value]) => value !== undefined);
      const row = await store.update(id, { ...Object.fromEntries(fields), ...units }, new Date(now()));
      await publish(row);
      return present(row);
    },
    async remove({ id }: Input<'remove'>, caller: Caller): Promise<Budget> {
      await known(id, caller);
      const row = await store.remove(id, new Date(now()));
      await publish(row);
      return present(row);
    },
    get: async ({ id }: Input<'get'>, caller: Caller): Promise<Budget> => present(await known(id, caller)),
    async list({ limit, cursor, ...question }: Input<'list'>, caller: Caller): Promise<Output<'list'>> {
      if (question.merchantId !== undefined) assertMerchant(caller, question.merchantId);
      const [after] = cursor === undefined ? [] : decodeCursor(cursor, { budgets: question }, z.tuple([z.uuid()]));
      const merchantId = question.merchantId ?? caller.merchantId ?? undefined;
      const rows = await store.list({ merchantId, search: question.search, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return { rows: rows.map(present), nextCursor: last ? encodeCursor([last.id], { budgets: question }) : null };
    },

    async status({ id, ids, merchantId: asked }: Input<'status'>, caller: Caller): Promise<Output<'status'>> {
      if (asked !== undefined) assertMerchant(caller, asked);
      if (id !== undefined) await known(id, caller);
      const merchantId = asked ?? caller.merchantId ?? undefined;
      const list = await listNow(registry);
      const at = now();
      const wanted = ids && new Set(ids);
      const chosen = list.budgets
        .filter(
          (budget) =>
            (id === undefined || budget.id === id) &&
            (wanted?.has(budget.id) ?? true) &&
            (merchantId === undefined || budget.merchantId === merchantId),
        )
        .flatMap((budget) => {
          const span = list.spanOf(budget.id, at);
          return span ? [{ budget, span }] : [];
        });
      const slots = chosen.map(({ budget, span }) => slotOf(budget.id, span.start));
      const read = await ledger.read(slots).catch((): undefined[] => slots.map(() => undefined));
      const missing = read.includes(undefined);
      const spends = missing ? await store.spends(new Date(at)) : [];
      const stored = new Map(spends.map(({ budgetId, start, spent }) => [slotOf(budgetId, start), spent]));
      const rows = chosen.map(({ budget, span }, index): BudgetStatus => {
        const live = read[index];
        const { used, reserved } = live ?? { used: stored.get(slots[index]!) ?? 0n, reserved: 0n };
        const [limit, spent] = [BigInt(budget.limit), used - reserved];
        const format = formatOf(budget);
        return {
          budgetId: budget.id,
          name: budget.name,
          scope: scopeOf(budget),
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
  };
}

/** A bound caller may define only budgets of its own merchant. */
function assertMayName(caller: Caller, merchantId: string): void {
  if (merchantId !== '') assertMerchant(caller, merchantId);
}

type Scoped = Pick<BudgetRow, 'merchantId' | 'team' | 'userId' | 'apiKey' | 'model'>;

const scopeOf = ({ merchantId, team, userId, apiKey, model }: Scoped): Budget['scope'] => ({
  merchantId: merchantId || null,
  team: team || null,
  userId: userId || null,
  apiKey: apiKey || null,
  model: model || null,
});

function present(row: BudgetRow): Budget {
  return {
    id: row.id,
    name: row.name,
    scope: scopeOf(row),
    measure: row.measure === 'meter' ? null : row.measure,
    meter: row.meter?.key ?? null,
    unit: unitOfBudget(row),
    limit: formatOf(row)(BigInt(row.limit)),
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
