import { type Day, type Explanation, formatQuantity, TallyError, type Units } from '@tally/contracts';
import type { Db } from '@tally/db';
import { presentAdjustment } from './adjust.ts';
import { presentLine } from './recent.ts';

export type ExplainQuestion = {
  merchantId: string;
  date: Day;
  metricType: string;
  limit: number;
  cursor?: string | undefined;
};

/** From a number to what made it: its flushes, its adjustments, its entries. JOURNAL_DROPPED for a closed day. */
export type Explain = (question: ExplainQuestion) => Promise<Explanation>;

type Sources = {
  db: Pick<Db, 'events' | 'corrections' | 'partitions' | 'usage'>;
  drain(merchantIds: readonly string[]): Promise<unknown>;
};

export function createExplain({ db, drain }: Sources): Explain {
  return async ({ merchantId, date, metricType, limit, cursor = '' }) => {
    // What waits belongs to the number; with Redis away the number of Postgres is explained.
    await drain([merchantId]).catch(() => {});
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
      db.events.flushesOf(merchantId, date, types),
      db.corrections.adjustments(merchantId, date),
      db.events.entriesOf(merchantId, date, types, { after: cursor, limit }),
    ]);
    const sum = (pick: (part: (typeof flushes)[number]) => bigint) =>
      flushes.reduce((total, part) => total + pick(part), 0n);
    return {
      merchantId,
      date,
      metricType,
      value: format(value),
      entryCount: sum((part) => part.entries).toString(),
      callCount: sum((part) => part.calls).toString(),
      flushes: flushes.map((part) => ({
        ...part,
        entries: part.entries.toString(),
        calls: part.calls.toString(),
        value: format(part.value),
      })),
      adjustments: adjustments.filter(({ amounts }) => types.some((type) => amounts.has(type))).map(presentAdjustment),
      entries: entries.map((line) => presentLine(line, true)),
      nextCursor: entries.length === limit ? entries.at(-1)!.id : null,
    };
  };
}
