import { type Day, type Explanation, formatQuantity, TallyError, type Units } from '@tally/contracts';
import type { Db } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import { presentAdjustment } from './adjust.ts';
import { presentLine } from './recent.ts';

export type ExplainQuestion = {
  merchantId: string;
  date: Day;
  metricType: string;
  limit: number;
  cursor?: string | undefined;
};

/** Returns what made a number: its flushes, adjustments and entries. JOURNAL_DROPPED for a closed day. */
export type Explain = (question: ExplainQuestion) => Promise<Explanation>;

type Sources = {
  db: Pick<Db, 'events' | 'corrections' | 'partitions' | 'usage'>;
  /** Flushes what waits of these merchants, for a bounded time; returns whether that was all. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
};

/** Flushes and adjustments that an explanation names; it counts all of them. */
const NAMED = 100;

const Place = z.tuple([z.string()]);

export function createExplain({ db, flushSoon }: Sources): Explain {
  return async ({ limit, cursor, ...question }) => {
    const { merchantId, date, metricType } = question;
    const [after] = cursor === undefined ? [''] : decodeCursor(cursor, question, Place);
    const named = cursor === undefined ? NAMED : 0;
    // What waits belongs to the number. Where it could not be flushed, the number of Postgres is explained.
    const complete = cursor !== undefined || (await flushSoon([merchantId]));
    const types = metricType === 'total_tokens' ? ['prompt_tokens', 'completion_tokens'] : [metricType];
    const format = (units: Units) => formatQuantity(metricType, units);
    const rows = await db.usage.merchantUsage({
      merchantIds: [merchantId],
      startDate: date,
      endDate: date,
      metricTypes: types,
    });
    const value = rows.reduce((sum, row) => sum + row.metric_value, 0n);
    if (await db.partitions.isClosed(date)) {
      throw new TallyError('JOURNAL_DROPPED', `The entries of ${date} are past the retention; their sum is kept.`, {
        details: { value: format(value) },
      });
    }
    const [flushes, adjustments, entries] = await Promise.all([
      db.events.flushesOf(merchantId, date, types, named),
      db.corrections.adjustments(merchantId, date, types, named),
      db.events.entriesOf(merchantId, date, types, { after, limit }),
    ]);
    return {
      merchantId,
      date,
      metricType,
      value: format(value),
      complete,
      entryCount: flushes.entries.toString(),
      callCount: flushes.calls.toString(),
      flushCount: flushes.flushes,
      adjustmentCount: adjustments.count,
      flushes: flushes.newest.map((part) => ({
        ...part,
        entries: part.entries.toString(),
        calls: part.calls.toString(),
        value: format(part.value),
      })),
      adjustments: adjustments.newest.map(presentAdjustment),
      entries: entries.map((line) => presentLine(line, true)),
      nextCursor: entries.length === limit ? encodeCursor([entries.at(-1)!.id], question) : null,
    };
  };
}
