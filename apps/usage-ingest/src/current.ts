import { type Day, dayOf, formatQuantity, type Quantity } from '@tally/contracts';
import type { Scales } from './meters/registry.ts';
import type { RunningTotals } from './running-totals.ts';

type Question = { merchantId: string; date?: Day | undefined; metricTypes?: string[] | undefined };

/**
 * Returns the running totals of a merchant's day. Includes `total_tokens` only if it is named. `complete` is false if
 * they may miss acknowledged events.
 */
export type CurrentTotals = (
  question: Question,
) => Promise<{ date: Day; metrics: Record<string, Quantity>; asOf: string; complete: boolean }>;

export function createCurrentTotals(options: {
  totals: RunningTotals;
  scales: Scales;
  now: () => number;
}): CurrentTotals {
  const { totals, scales, now } = options;
  return async ({ merchantId, date = dayOf(now()), metricTypes }) => {
    const asOf = new Date(now()).toISOString();
    const types = metricTypes?.flatMap((type) =>
      type === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [type],
    );
    const { totals: all, complete } = await totals(merchantId, date, types);
    const units = types ? new Map([...all].filter(([type]) => types.includes(type))) : all;
    const wanted = metricTypes ?? [...units.keys()].sort();
    const unitsOf = (type: string) =>
      type === 'total_tokens'
        ? (units.get('prompt_tokens') ?? 0n) + (units.get('completion_tokens') ?? 0n)
        : (units.get(type) ?? 0n);
    const scaleOf = await scales(wanted);
    const metrics = Object.fromEntries(wanted.map((type) => [type, formatQuantity(type, unitsOf(type), scaleOf)]));
    return { date, metrics, asOf, complete };
  };
}
