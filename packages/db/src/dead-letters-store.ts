import type { Day, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from './journal-line.ts';
import type { MerchantDay } from './journal-store.ts';
import { DateText, Moment, Units } from './rows.ts';
import { type Executor, runSql } from './run-sql.ts';

export type DeadLetter = {
  id: string;
  merchantId: string;
  date: Day;
  entryId: string;
  line: JournalLine;
  code: string;
  message: string;
  createdAt: string;
  attempts: number;
  resolvedAt: string | null;
};

export type DeadLettersStore = {
  list(options: {
    merchantId?: string | undefined;
    ids?: readonly string[] | undefined;
    after?: string | undefined;
    limit: number;
    includeResolved: boolean;
  }): Promise<DeadLetter[]>;
  /** Marks a letter as counted. */
  resolve(id: string): Promise<void>;
  /** Records that Postgres refused a letter again; returns how often it was tried by now. */
  refused(id: string, reason: { code: string; message: string }): Promise<number>;
  /** How many are unresolved: of all, of a merchant, or of those with these ids. */
  count(scope?: { merchantId?: string | undefined; ids?: readonly string[] | undefined }): Promise<number>;
  /** Sums over the unresolved letters of some merchants' days that are not counted by themselves. */
  waiting(
    scope: { merchantIds: readonly string[]; startDate: Day; endDate: Day },
    transaction: Executor,
  ): Promise<(MerchantDay & { metricType: string; units: UnitsType })[]>;
  /** Which of these entries of a merchant's day are unresolved letters. */
  among(day: MerchantDay, entryIds: readonly string[], transaction: Executor): Promise<Set<string>>;
};

const Row = z
  .object({
    id: z.string(),
    merchant_id: z.string(),
    date: DateText,
    entry_id: z.string(),
    line: z.custom<JournalLine>((value) => typeof value === 'object' && value !== null),
    code: z.string(),
    message: z.string(),
    created_at: Moment,
    attempts: z.number(),
    resolved_at: Moment.nullable(),
  })
  .transform(({ merchant_id, entry_id, created_at, resolved_at, ...row }) => ({
    ...row,
    merchantId: merchant_id,
    entryId: entry_id,
    createdAt: created_at,
    resolvedAt: resolved_at,
  }));

const WaitingRow = z
  .object({ merchant_id: z.string(), date: DateText, metric_type: z.string(), metric_value: Units })
  .transform(({ merchant_id, date, metric_type, metric_value }) => ({
    merchantId: merchant_id,
    date,
    metricType: metric_type,
    units: metric_value,
  }));

/** Entries that were acknowledged and that Postgres refused for their own sake. */
export function createDeadLettersStore(dataSource: DataSource): DeadLettersStore {
  return {
    list: ({ merchantId, ids, after, limit, includeResolved }) =>
      runSql(dataSource, 'dead-letters', [merchantId ?? null, ids ?? null, after ?? '0', limit, includeResolved], Row),
    async resolve(id) {
      await dataSource.query('update usage_dead_letters set resolved_at = now() where id = $1', [id]);
    },
    async refused(id, { code, message }) {
      const [rows] = await dataSource.query(
        'update usage_dead_letters set attempts = attempts + 1, code = $2, message = $3 where id = $1 returning attempts',
        [id, code, message],
      );
      return rows[0].attempts;
    },
    async count({ merchantId, ids } = {}) {
      const [row] = await dataSource.query(
        `select count(*) as count from usage_dead_letters
         where resolved_at is null and ($1::text is null or merchant_id = $1) and ($2::bigint[] is null or id = any($2))`,
        [merchantId ?? null, ids ?? null],
      );
      return Number(row.count);
    },
    waiting: ({ merchantIds, startDate, endDate }, transaction) =>
      runSql(transaction, 'waiting-dead-letters', [merchantIds, startDate, endDate], WaitingRow),
    async among({ merchantId, date }, entryIds, transaction) {
      const rows = (await transaction.query(
        `select entry_id from usage_dead_letters
         where merchant_id = $1 and date = $2 and entry_id = any($3::text[]) and resolved_at is null`,
        [merchantId, date, entryIds],
      )) as { entry_id: string }[];
      return new Set(rows.map((row) => row.entry_id));
    },
  };
}

/** Where a dead letter came from; those of the previous release did not keep it. */
export function originOf(id: string, line: JournalLine & { origin?: string }): string {
  return line.origin ?? `letter:${id}`;
}
