import {
  type Adjustment,
  DAY_MS,
  dayOf,
  formatQuantity,
  MAX_ENTRY_UNITS,
  parseSignedQuantity,
  type ScaleOf,
  TallyError,
  type Units,
} from '@tally/contracts';
import type { Db, Adjustment as Recorded } from '@tally/db';
import type { FaultPoint } from './faults.ts';
import type { Scales } from './meters/registry.ts';
import type { Repair } from './reconcile/index.ts';

export type AdjustCall = {
  id: string;
  merchantId: string;
  date: string;
  metrics: Record<string, string>;
  dimensions?: { userId?: string; apiKey?: string; model?: string; provider?: string } | undefined;
  reason: string;
  /** The event of that day that it takes back, and its time. */
  voids?: { id: string; time: string };
};

/**
 * Corrects a day's sums. The transaction that records the amounts adds them, once per id; running totals are corrected
 * soon after. Events are never edited.
 */
export type Adjust = (call: AdjustCall, actor: string) => Promise<Adjustment>;

export function createAdjust({
  db,
  scales,
  repair,
  flushSoon,
  now,
  fault,
}: {
  db: Pick<Db, 'corrections'>;
  scales: Scales;
  repair: Pick<Repair, 'days'>;
  /** Flushes pending events of these merchants, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
  now: () => number;
  fault: FaultPoint;
}): Adjust {
  return async ({ dimensions: { userId, apiKey, model, provider } = {}, metrics, ...call }, actor) => {
    if (call.date > dayOf(now() + DAY_MS)) {
      throw new TallyError('TIME_IN_FUTURE', `${call.date} is ahead: there is nothing to correct yet.`);
    }
    const known = (dimension: string | undefined) =>
      dimension === undefined || dimension === 'unknown' ? '' : dimension;
    const dimensions = { userId: known(userId), apiKey: known(apiKey), model: known(model), provider: known(provider) };
    const scaleOf = await scales(Object.keys(metrics));
    const flushed = await flushSoon([call.merchantId]);
    await fault('adjust.before-commit');
    const recorded = await db.corrections.adjust({ ...call, dimensions, amounts: amountsOf(metrics, scaleOf), actor });
    // A repair reads all pending events of the shard. While there are many, or Redis is unavailable, the day stays
    // marked as stale, and its totals are repaired later.
    if (flushed) await repair.days([{ merchantId: call.merchantId, date: call.date }]).catch(() => {});
    return presentAdjustment(recorded, scaleOf);
  };
}

export function presentAdjustment({ amounts, dimensions, ...adjustment }: Recorded, scaleOf: ScaleOf): Adjustment {
  const named = (dimension: string) => (dimension === '' ? null : dimension);
  return {
    ...adjustment,
    metrics: Object.fromEntries([...amounts].map(([type, units]) => [type, formatQuantity(type, units, scaleOf)])),
    dimensions: {
      userId: named(dimensions.userId),
      apiKey: named(dimensions.apiKey),
      model: named(dimensions.model),
      provider: named(dimensions.provider),
    },
  };
}

function amountsOf(metrics: Record<string, string>, scaleOf: ScaleOf): Map<string, Units> {
  const amounts = new Map<string, Units>();
  for (const [type, text] of Object.entries(metrics)) {
    if (type === 'total_tokens') throw new TallyError('RESERVED_METRIC', 'Adjust prompt_tokens or completion_tokens.');
    const units = parseSignedQuantity(type, text, scaleOf);
    if (units === undefined || units > MAX_ENTRY_UNITS * 1000n || units < -MAX_ENTRY_UNITS * 1000n) {
      throw new TallyError('INVALID_INPUT', `metrics.${type}: Expected a quantity from -10^18 to 10^18 units.`);
    }
    if (units !== 0n) amounts.set(type, units);
  }
  if (amounts.size === 0) throw new TallyError('INVALID_INPUT', 'metrics: Expected at least one amount other than 0.');
  return amounts;
}
