import {
  type DayDocument,
  type DayRows,
  dayOf,
  formatCost,
  isTallyError,
  type RejectedRow,
  readAmounts,
  TallyError,
} from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import type { Db, FlatDay } from '@tally/db';

type Question = { documents: readonly DayDocument[]; merchantId?: string | undefined };

const MAX_REJECTIONS = 100;

/**
 * Imports days of another system. usage-ingest counts rows with all dimensions; documents with only flat sums stay
 * snapshots. Rows go first, and the flat sums of their days are deleted only when all rows are counted: a crash in
 * between leaves days that are answered from events, and importing them again completes them.
 */
export function createImport({
  ingest,
  days,
  now,
}: {
  ingest: Pick<IngestClient, 'sources'>;
  days: Db['days'];
  now: () => number;
}) {
  return async ({ documents, merchantId }: Question) => {
    const today = dayOf(now());
    const rejected: RejectedRow[] = [];
    const flat: FlatDay[] = [];
    const rows: DayRows[] = [];
    for (const document of documents) {
      try {
        if (document.date >= today)
          throw new TallyError('INVALID_INPUT', `${document.date} is not over yet: import closed days.`);
        const toCount = rowsOf(document);
        if (toCount) rows.push({ date: document.date, rows: toCount });
        else flat.push(flatOf(document));
      } catch (error) {
        if (!isTallyError(error)) throw error;
        rejected.push({ date: document.date, code: error.code, message: error.message });
      }
    }
    const outcome = rows.length > 0 ? await count({ days: rows, merchantId }) : NOTHING;
    rejected.push(...outcome.rejected);
    const refused = new Set(outcome.rejected.flatMap(({ date, row }) => (row === undefined ? [date] : [])));
    const incomplete = new Set(outcome.rejected.map(({ date }) => date));
    const done = rows.map(({ date }) => date).filter((date) => !incomplete.has(date));
    if (done.length > 0) await days.forgetImported(done);
    if (flat.length > 0) await days.importFlat(flat);
    const { accepted, duplicates } = outcome;
    return {
      counted: { days: rows.length - refused.size, accepted, duplicates },
      kept: { days: flat.length },
      rejected: inOrder(rejected, documents).slice(0, MAX_REJECTIONS),
      rejectedCount: rejected.length,
    };
  };

  async function count(question: { days: DayRows[]; merchantId: string | undefined }) {
    try {
      return await ingest.sources.importDays.mutate(question);
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

const NOTHING = { accepted: 0, duplicates: 0, rejected: [] as RejectedRow[] };

/** Whole days first, in the order of the documents, then single rows. */
function inOrder(rejected: readonly RejectedRow[], documents: readonly DayDocument[]): RejectedRow[] {
  const wholeDays = rejected.filter(({ row }) => row === undefined);
  const place = new Map(documents.map(({ date }, index) => [date, index]));
  wholeDays.sort((one, other) => place.get(one.date)! - place.get(other.date)!);
  return [...wholeDays, ...rejected.filter(({ row }) => row !== undefined)];
}

/** Returns the rows to count; undefined if the document has only flat sums that can stay. */
function rowsOf({ date, raw_data: rows, cache_status, ...flat }: DayDocument): DayRows['rows'] | undefined {
  if (!rows || rows.length === 0) return undefined;
  if (hasGroups(flat) && !rows.every(hasTokensByKind)) return undefined;
  // The rest of the day would come under the ids of this part, and count as repeats.
  if (cache_status === 'partial')
    throw new TallyError('INVALID_INPUT', `${date} is partial: import its rows when they are complete.`);
  return rows;
}

const hasTokensByKind = ({ tokens, promptTokens, completionTokens }: DayRows['rows'][number]) =>
  (tokens?.prompt ?? promptTokens) !== undefined && (tokens?.completion ?? completionTokens) !== undefined;

const GROUPINGS = ['aggregated_by_user', 'aggregated_by_model', 'aggregated_by_provider'] as const;

const hasGroups = (document: Pick<DayDocument, (typeof GROUPINGS)[number]>) =>
  GROUPINGS.some((name) => document[name] !== null && document[name] !== undefined);

/** A document as stored: its numbers as JSON text, because they may be longer than a double holds. */
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
