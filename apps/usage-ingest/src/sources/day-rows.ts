import { createHash } from 'node:crypto';
import {
  type Day,
  type DayRows,
  type DocumentRow,
  formatCost,
  isTallyError,
  type RejectedRow,
  readAmounts,
  TallyError,
  type Units,
  type UsageEntry,
} from '@tally/contracts';
import type { Pipeline } from './pipeline.ts';

/** An event, and its row. */
type Sent = { entry: UsageEntry; date: Day; row: number };

/**
 * Counts the rows of day snapshots of another system, as analytics-api accepts them in `days.import`. Event ids come
 * from dimensions, so the same rows again add nothing. A day with an unreadable row is not counted at all. Throws
 * UNAVAILABLE if the outcome is uncertain.
 */
export const createDayRows =
  (pipeline: Pick<Pipeline, 'record'>) =>
  async ({ days, merchantId }: { days: readonly DayRows[]; merchantId?: string | undefined }) => {
    const rejected: RejectedRow[] = [];
    const sent: Sent[] = [];
    for (const day of days) {
      try {
        for (const each of entriesOf(day, merchantId)) sent.push(each);
      } catch (error) {
        if (!isTallyError(error)) throw error;
        rejected.push({ date: day.date, code: error.code, message: error.message });
      }
    }
    const outcome = await pipeline.record(
      'day_snapshots',
      sent.map(({ entry }) => ({ entry })),
      { boundTo: null, backfill: true, isCompared: false },
    );
    for (const { index, code, message } of outcome.rejected) {
      const { date, row } = sent[index]!;
      rejected.push({ date, row, code, message });
    }
    return { accepted: outcome.accepted, duplicates: outcome.duplicates, rejected };
  };

type Sums = { requests: Units; failed: Units; prompt: Units; completion: Units; cost: Units };

/** Returns the events of a day: one for the successful and one for the failed requests of the same dimensions. */
function entriesOf({ date, rows }: DayRows, merchantId: string | undefined): Sent[] {
  const groups = new Map<string, { dimensions: Dimensions; sums: Sums; row: number }>();
  for (const [row, each] of rows.entries()) {
    const amounts = readAmounts(each, `${date}, row ${row}`);
    if (amounts.prompt === undefined || amounts.completion === undefined)
      throw new TallyError('INVALID_INPUT', `${date}, row ${row}: say how many tokens were prompt and completion.`);
    const dimensions = dimensionsOf(each, merchantId);
    if (!dimensions)
      throw new TallyError('INVALID_INPUT', `${date}, row ${row}: name its merchant, or \`merchantId\` for all rows.`);
    const sums = { ...amounts, prompt: amounts.prompt, completion: amounts.completion };
    const key = JSON.stringify(dimensions);
    const known = groups.get(key);
    // Rows of the same dimensions are merged: an event's id is made of them.
    if (known) known.sums = plus(known.sums, sums);
    else groups.set(key, { dimensions, sums, row });
  }
  return [...groups.values()].flatMap(({ dimensions, sums, row }) => {
    const { requests, failed, prompt, completion, cost } = sums;
    if (requests === 0n && prompt + completion + cost > 0n)
      throw new TallyError('INVALID_INPUT', `${date}, row ${row}: there is usage, but no request that made it.`);
    const [merchant, userId, apiKey, model, provider] = dimensions;
    const entry = (status: 'success' | 'failure', count: Units, metrics: UsageEntry['metrics']): Sent => ({
      date,
      row,
      entry: {
        id: `import:${createHash('sha256')
          .update(JSON.stringify([dimensions, status]))
          .digest('base64url')}`,
        merchantId: merchant,
        time: `${date}T00:00:00.000Z`,
        metrics,
        status,
        count: count.toString(),
        ...(userId && { userId }),
        ...(apiKey && { apiKey }),
        ...(model && { model }),
        ...(provider && { provider }),
      },
    });
    const metrics = {
      prompt_tokens: prompt.toString(),
      completion_tokens: completion.toString(),
      cost: formatCost(cost),
    };
    const succeeded = requests - failed;
    return [
      ...(succeeded > 0n ? [entry('success', succeeded, metrics)] : []),
      ...(failed > 0n ? [entry('failure', failed, succeeded > 0n ? {} : metrics)] : []),
    ];
  });
}

type Dimensions = [merchantId: string, userId: string, apiKey: string, model: string, provider: string];

function dimensionsOf(row: DocumentRow, merchantId: string | undefined): Dimensions | undefined {
  const merchant = row.merchantId ?? merchantId;
  const named = (value: string | null | undefined) => (value === 'unknown' ? '' : (value ?? ''));
  return merchant === undefined
    ? undefined
    : [merchant, named(row.userId), named(row.apiKey), named(row.model), named(row.provider)];
}

const plus = (left: Sums, right: Sums): Sums => ({
  requests: left.requests + right.requests,
  failed: left.failed + right.failed,
  prompt: left.prompt + right.prompt,
  completion: left.completion + right.completion,
  cost: left.cost + right.cost,
});
