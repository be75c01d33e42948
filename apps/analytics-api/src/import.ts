import { createHash } from 'node:crypto';
import {
  type Amount,
  type Amounts,
  COST_DECIMALS,
  type Day,
  type DayDocument,
  type DocumentRow,
  dayOf,
  formatCost,
  isTallyError,
  MAX_BATCH,
  MAX_SUM_UNITS,
  TallyError,
  type Units,
  type UsageEntry,
} from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { Db, FlatDay } from '@tally/db';

type Question = { documents: readonly DayDocument[]; merchantId?: string | undefined };
type Rejection = { date: Day; row?: number; code: string; message: string };
/** An entry, and the row it came from. */
type Sent = { entry: UsageEntry; date: Day; row: number };

const MAX_REJECTIONS = 100;

/**
 * Days of another system: rows with all dimensions become entries like any others, documents with flat sums alone stay
 * documents. Entries go first and a day's flat document is forgotten only when all of them are counted, so that a crash
 * in between leaves a day that is answered from entries, and doing it again ends it.
 */
export function createImport({
  ingest,
  days,
  now,
}: {
  ingest: Pick<IngestClient, 'usage'>;
  days: Db['days'];
  now: () => number;
}) {
  return async ({ documents, merchantId }: Question) => {
    const today = dayOf(now());
    const rejected: Rejection[] = [];
    const reject = (rejection: Rejection) => {
      if (rejected.length < MAX_REJECTIONS) rejected.push(rejection);
    };
    const flat: FlatDay[] = [];
    const counted = new Set<Day>();
    const sent: Sent[] = [];
    for (const document of documents) {
      try {
        if (document.date >= today)
          throw new TallyError('INVALID_INPUT', `${document.date} is not over yet: import closed days.`);
        const rows = entriesOf(document, merchantId);
        if (rows) {
          // The rest of the day would come under the ids of this part, and be taken for repeats.
          if (document.cache_status === 'partial')
            throw new TallyError(
              'INVALID_INPUT',
              `${document.date} is partial: import its rows when they are complete.`,
            );
          counted.add(document.date);
          for (const row of rows) sent.push(row);
        } else flat.push(flatOf(document));
      } catch (error) {
        if (!isTallyError(error)) throw error;
        reject({ date: document.date, code: error.code, message: error.message });
      }
    }

    let accepted = 0;
    let duplicates = 0;
    const unfinished = new Set<Day>();
    for (let from = 0; from < sent.length; from += MAX_BATCH) {
      const batch = sent.slice(from, from + MAX_BATCH);
      const result = await record(batch.map(({ entry }) => entry));
      accepted += result.accepted;
      duplicates += result.duplicates;
      for (const { index, code, message } of result.rejected) {
        const { date, row } = batch[index]!;
        unfinished.add(date);
        reject({ date, row, code, message });
      }
    }
    const done = [...counted].filter((date) => !unfinished.has(date));
    if (done.length > 0) await days.forgetImported(done);
    if (flat.length > 0) await days.importFlat(flat);
    return { counted: { days: counted.size, accepted, duplicates }, kept: { days: flat.length }, rejected };
  };

  async function record(entries: UsageEntry[]) {
    try {
      return await ingest.usage.record.mutate({ entries, backfill: true });
    } catch (cause) {
      throw new TallyError(
        'UNAVAILABLE',
        'usage-ingest did not answer. What was counted stays counted: send the same documents again.',
        { cause, details: { retryAfter: 1 } },
      );
    }
  }
}

export type Import = ReturnType<typeof createImport>;

type Sums = { requests: Units; failed: Units; prompt: Units; completion: Units; cost: Units };

/** Undefined where a document has no rows with all that an entry needs, but flat sums that can stay. */
function entriesOf({ date, raw_data, ...flat }: DayDocument, merchantId: string | undefined): Sent[] | undefined {
  if (!raw_data || raw_data.length === 0) return undefined;
  const groups = new Map<string, { dimensions: Dimensions; sums: Sums; row: number }>();
  for (const [row, each] of raw_data.entries()) {
    const amounts = readAmounts(each, `${date}, row ${row}`);
    if (amounts.prompt === undefined || amounts.completion === undefined) {
      if (hasGroups(flat)) return undefined;
      throw new TallyError('INVALID_INPUT', `${date}, row ${row}: say how many tokens were prompt and completion.`);
    }
    const dimensions = dimensionsOf(each, merchantId);
    if (!dimensions)
      throw new TallyError('INVALID_INPUT', `${date}, row ${row}: name its merchant, or \`merchantId\` for all rows.`);
    const sums = { ...amounts, prompt: amounts.prompt, completion: amounts.completion };
    const key = JSON.stringify(dimensions);
    const known = groups.get(key);
    // Rows of the same dimensions are one: an entry's id is made of them.
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

const GROUPINGS = ['aggregated_by_user', 'aggregated_by_model', 'aggregated_by_provider'] as const;

const hasGroups = (document: Pick<DayDocument, (typeof GROUPINGS)[number]>) =>
  GROUPINGS.some((name) => document[name] !== null && document[name] !== undefined);

/** A document as it is kept: its numbers as JSON text, because they may be longer than a double holds. */
function flatOf(document: DayDocument): FlatDay {
  if (!hasGroups(document))
    throw new TallyError('INVALID_INPUT', `${document.date}: the document has neither rows nor sums.`);
  const textOf = (name: (typeof GROUPINGS)[number]) => {
    const grouping = document[name];
    if (!grouping) return null;
    const groups = Object.entries(grouping).map(([key, amounts]) => {
      const { requests, prompt, completion, total, cost } = readAmounts(amounts, `${document.date}, ${key}`);
      const split =
        prompt === undefined || completion === undefined ? '' : `,"prompt":${prompt},"completion":${completion}`;
      return `${JSON.stringify(key)}:{"totalRequests":${requests},"tokens":{"total":${total}${split}},"cost":${formatCost(cost)}}`;
    });
    return `{${groups.join(',')}}`;
  };
  return {
    date: document.date,
    byUser: textOf('aggregated_by_user'),
    byModel: textOf('aggregated_by_model'),
    byProvider: textOf('aggregated_by_provider'),
    status: document.cache_status,
  };
}

/** The amounts of a row or a group, whichever shape they have. */
function readAmounts(amounts: Amounts, where: string) {
  const whole = (amount: Amount | undefined) => (amount === undefined ? undefined : unitsOf(amount, 0, where));
  const { tokens } = amounts;
  const prompt = whole(tokens?.prompt ?? amounts.promptTokens);
  const completion = whole(tokens?.completion ?? amounts.completionTokens);
  const told = whole(tokens?.total ?? amounts.totalTokens);
  const total = told ?? (prompt ?? 0n) + (completion ?? 0n);
  if (prompt !== undefined && completion !== undefined && total !== prompt + completion)
    throw new TallyError('INVALID_INPUT', `${where}: ${total} tokens are not ${prompt} and ${completion}.`);
  const requests = unitsOf(amounts.totalRequests, 0, where);
  const failed = unitsOf(amounts.failedRequests ?? 0, 0, where);
  if (failed > requests) throw new TallyError('INVALID_INPUT', `${where}: more requests failed than there were.`);
  const cost = unitsOf(amounts.cost ?? amounts.totalCost ?? 0, COST_DECIMALS, where);
  return { requests, failed, prompt, completion, total, cost };
}

const plus = (left: Sums, right: Sums): Sums => ({
  requests: left.requests + right.requests,
  failed: left.failed + right.failed,
  prompt: left.prompt + right.prompt,
  completion: left.completion + right.completion,
  cost: left.cost + right.cost,
});

/** Reads the decimal text of an amount, also one with an exponent; what is finer than a unit is rounded half up. */
function unitsOf(amount: Amount, decimals: number, where: string): Units {
  const [, whole, fraction = '', exponent = '0'] = /^(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(String(amount)) ?? [];
  if (whole === undefined) throw new TallyError('INVALID_INPUT', `${where}: ${amount} is no amount.`);
  const shift = decimals + Number(exponent) - fraction.length;
  const digits = BigInt(whole + fraction);
  if (digits * 10n ** BigInt(Math.max(shift, 0)) > 10n ** BigInt(Math.max(-shift, 0)) * MAX_SUM_UNITS)
    throw new TallyError('INVALID_INPUT', `${where}: ${amount} is too much to be kept.`);
  if (shift >= 0) return digits * 10n ** BigInt(shift);
  const divisor = 10n ** BigInt(-shift);
  if (decimals === 0 && digits % divisor !== 0n)
    throw new TallyError('INVALID_INPUT', `${where}: ${amount} is no whole number.`);
  return (digits * 2n + divisor) / (divisor * 2n);
}
