import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, Moment } from '../rows.ts';
import { runSql } from '../run-sql.ts';
import type { JournalLine } from './journal-line.ts';

/** An event that was not counted, because another event has its id. */
export type Conflict = {
  id: string;
  merchantId: string;
  /** The day on which the other event is counted. */
  date: Day;
  entryId: string;
  time: string;
  digest: string;
  countedTime: string;
  countedDigest: string;
  line: JournalLine;
  source: string;
  recordedAt: string;
};

export type ConflictsStore = {
  /** Returns a page of the conflicts of some days, in order of (date, id). */
  list(options: {
    startDate: Day;
    endDate: Day;
    merchantIds?: readonly string[] | undefined;
    after?: { date: Day; id: string } | undefined;
    limit: number;
  }): Promise<Conflict[]>;
};

const Row = z
  .object({
    id: z.string(),
    merchant_id: z.string(),
    date: DateText,
    entry_id: z.string(),
    time: Moment,
    digest: z.string(),
    counted_time: Moment,
    counted_digest: z.string(),
    line: z.custom<JournalLine>((value) => typeof value === 'object' && value !== null),
    source: z.string(),
    recorded_at: Moment,
  })
  .transform(({ merchant_id, entry_id, counted_time, counted_digest, recorded_at, ...row }) => ({
    ...row,
    merchantId: merchant_id,
    entryId: entry_id,
    countedTime: counted_time,
    countedDigest: counted_digest,
    recordedAt: recorded_at,
  }));

/** Conflicts stored by the counting transactions. */
export function createConflictsStore(dataSource: DataSource): ConflictsStore {
  return {
    list: ({ startDate, endDate, merchantIds, after, limit }) =>
      runSql(
        dataSource,
        'list-conflicts',
        [startDate, endDate, merchantIds ?? null, after?.date ?? null, after?.id ?? null, limit],
        Row,
      ),
  };
}
