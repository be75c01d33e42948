import { addDays, type Day, dayOf, formatQuantity, type Quantity, type Units } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { Counters } from './counters/counters.ts';
import { LIVE_DAYS } from './counters/keys.ts';

type Sources = { counters: Counters; db: Pick<Db, 'usage'>; now: () => number };
type Question = { merchantId: string; date?: Day | undefined; metricTypes?: string[] | undefined };

/**
 * The running totals of a merchant's day: from Redis while it keeps them, else from `merchant_usage`.
 * `total_tokens` is answered where it is asked for by name.
 */
export type CurrentTotals = (
  question: Question,
) => Promise<{ date: Day; metrics: Record<string, Quantity>; asOf: string }>;

export function createCurrentTotals({ counters, db, now }: Sources): CurrentTotals {
  return async ({ merchantId, date = dayOf(now()), metricTypes }) => {
    const asOf = new Date(now()).toISOString();
    const types = metricTypes?.flatMap((type) =>
      type === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [type],
    );
    const stored = async () => {
      const question = { merchantIds: [merchantId], startDate: date, endDate: date, metricTypes: types };
      const rows = await db.usage.merchantUsage(question);
      return new Map(rows.map((row): [string, Units] => [row.metric_type, row.metric_value]));
    };
    const live = date >= addDays(dayOf(now()), -LIVE_DAYS);
    const units = live ? await counters.totals(merchantId, date, types).catch(stored) : await stored();
    const wanted = metricTypes ?? [...units.keys()].sort();
    const unitsOf = (type: string) =>
      type === 'total_tokens'
        ? (units.get('prompt_tokens') ?? 0n) + (units.get('completion_tokens') ?? 0n)
        : (units.get(type) ?? 0n);
    const metrics = Object.fromEntries(wanted.map((type) => [type, formatQuantity(type, unitsOf(type))]));
    return { date, metrics, asOf };
  };
}
