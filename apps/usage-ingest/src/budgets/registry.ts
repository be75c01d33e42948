import type { BudgetPeriod, BudgetRow, Db, JournalLine } from '@tally/db';
import type { RedisClient } from '@tally/service';
import { z } from 'zod';

/** A period of a budget, as named in Redis. */
export const slotOf = (budgetId: string, start: number) => `${budgetId}/${start}`;

export type Usage = {
  merchantId: string;
  userId?: string | undefined;
  apiKey?: string | undefined;
  model?: string | undefined;
};
type Span = { start: number; ends: number | null };

/** The active budgets as one process knows them. */
export type BudgetList = {
  readonly version: string;
  readonly budgets: readonly BudgetRow[];
  /** Returns the budgets that usage counts in. */
  matching(usage: Usage): BudgetRow[];
  /** Returns true if any budget can match usage of a merchant. */
  concerns(merchantId: string): boolean;
  /** Returns the budget's period of a moment: the previous, current or next one; else undefined. */
  spanOf(budgetId: string, at: number): Span | undefined;
  /** Every period that is kept in Redis. */
  has(slot: string): boolean;
};

/** The copy of the list in Redis, for a service that starts while Postgres is unavailable. */
const MIRROR_KEY = 'registry:budgets';

const Mirror = z.object({
  version: z.string(),
  budgets: z.array(
    z.object({
      id: z.string(),
      name: z.string(),
      merchantId: z.string(),
      userId: z.string(),
      apiKey: z.string(),
      model: z.string(),
      measure: z.enum(['cost', 'requests', 'tokens']),
      limit: z.string(),
      period: z.enum(['hour', 'day', 'week', 'month', 'total']),
      timeZone: z.string(),
      enforcement: z.enum(['soft', 'hard']),
      whenUnavailable: z.enum(['allow', 'refuse']),
      thresholds: z.array(z.number()),
      createdAt: z.coerce.date(),
      createdBy: z.string(),
      removedAt: z.coerce.date().nullable(),
    }),
  ),
  spans: z.array(z.object({ budgetId: z.string(), start: z.number(), ends: z.number().nullable() })),
});

export type BudgetRegistry = ReturnType<typeof createBudgetRegistry>;

/** Caches the active budgets and their periods, at most some seconds behind `budgets`. */
export function createBudgetRegistry({
  store,
  redis,
  now,
}: {
  store: Pick<Db['budgets'], 'version' | 'active' | 'periods'>;
  redis: RedisClient;
  now: () => number;
}) {
  let list: (BudgetList & { turnsAt: number }) | undefined;
  let mirrored: string | undefined;

  async function load(): Promise<void> {
    const { version, budgets } = await store.active();
    const spans = (await store.periods(new Date(now()))).map(({ budgetId, start, ends }) => ({
      budgetId,
      start,
      ends,
    }));
    list = listOf(version, budgets, spans, now());
    const copy = JSON.stringify({ version, budgets, spans });
    mirrored = await redis.set(MIRROR_KEY, copy).then(
      () => version,
      () => undefined,
    );
  }

  return {
    current: (): BudgetList | undefined => list,
    /** Loads the list if it has changed, or a period has ended. Rejects if neither store has it. */
    async refresh(): Promise<void> {
      try {
        const version = await store.version();
        if (version !== list?.version || version !== mirrored || now() >= list.turnsAt) await load();
      } catch (error) {
        if (list !== undefined) throw error;
        const text = await redis.get(MIRROR_KEY).catch(() => null);
        if (text === null) throw error;
        const { version, budgets, spans } = Mirror.parse(JSON.parse(text));
        list = listOf(version, budgets, spans, now());
      }
    },
  };
}

function listOf(
  version: string,
  budgets: readonly BudgetRow[],
  periods: readonly (Span & { budgetId: string })[],
  at: number,
) {
  const byMerchant = new Map<string, BudgetRow[]>();
  for (const budget of budgets) {
    const own = byMerchant.get(budget.merchantId);
    if (own) own.push(budget);
    else byMerchant.set(budget.merchantId, [budget]);
  }
  const spans = new Map<string, Span[]>();
  for (const { budgetId, start, ends } of periods) {
    const own = spans.get(budgetId);
    if (own) own.push({ start, ends });
    else spans.set(budgetId, [{ start, ends }]);
  }
  const general = byMerchant.get('') ?? [];
  const slots = new Set(periods.map(({ budgetId, start }) => slotOf(budgetId, start)));
  const ends = periods.flatMap((period) => (period.ends !== null && period.ends > at ? [period.ends] : []));
  return {
    version,
    budgets,
    turnsAt: ends.reduce((first, each) => Math.min(first, each), Number.POSITIVE_INFINITY),
    concerns: (merchantId: string) => general.length > 0 || byMerchant.has(merchantId),
    matching: ({ merchantId, userId = '', apiKey = '', model = '' }: Usage) =>
      [...(byMerchant.get(merchantId) ?? []), ...general].filter(
        (budget) =>
          (budget.userId === '' || budget.userId === userId) &&
          (budget.apiKey === '' || budget.apiKey === apiKey) &&
          (budget.model === '' || budget.model === model),
      ),
    spanOf: (budgetId: string, moment: number) =>
      spans.get(budgetId)?.find(({ start, ends }) => moment >= start && (ends === null || moment < ends)),
    has: (slot: string) => slots.has(slot),
  };
}

/** Returns the amount that a line adds to a measure, in units. */
export function amountOf(line: JournalLine, measure: BudgetRow['measure']): bigint {
  if (measure === 'tokens') return BigInt(line.prompt_tokens ?? 0) + BigInt(line.completion_tokens ?? 0);
  return BigInt(line[measure] ?? 0);
}

/** Returns spent amounts in the form that Redis can hold. */
export const storable = ({ spent }: Pick<BudgetPeriod, 'spent'>): string =>
  (spent > MAX_SPENT ? MAX_SPENT : spent < -MAX_SPENT ? -MAX_SPENT : spent).toString();
const MAX_SPENT = 4n * 10n ** 18n;
