import type { Day, Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DeadLetterEntity, type DeadLetterRow } from '../entities/dead-letter.ts';
import { type MerchantDay, MetricSum } from '../rows.ts';
import { type Executor, runSql } from '../run-sql.ts';
import { And, In, IsNull, MoreThan } from '../typeorm.ts';
import type { JournalLine } from './journal-line.ts';

export type DeadLetter = Omit<DeadLetterRow, 'createdAt' | 'resolvedAt'> & {
  createdAt: string;
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
  /** Marks a dead letter as counted. */
  resolve(id: string): Promise<void>;
  /** Records another failed attempt; returns the number of attempts. */
  refused(id: string, reason: { code: string; message: string }): Promise<number>;
  /** Counts unresolved dead letters: all, those of a merchant, or those with these ids. */
  count(scope?: { merchantId?: string | undefined; ids?: readonly string[] | undefined }): Promise<number>;
  /** Sums the unresolved dead letters of some merchants' days that were not counted themselves. */
  waiting(
    scope: { merchantIds: readonly string[]; startDate: Day; endDate: Day },
    transaction: Executor,
  ): Promise<(MerchantDay & { metricType: string; units: UnitsType })[]>;
  /** Returns those of these events of a merchant's day that are unresolved dead letters. */
  among(day: MerchantDay, entryIds: readonly string[], transaction: Executor): Promise<Set<string>>;
};

const EntryRow = z.object({ entry_id: z.string() });
/** Dead letters: acknowledged events that Postgres rejected for their content. */
export function createDeadLettersStore(dataSource: DataSource): DeadLettersStore {
  const letters = dataSource.getRepository(DeadLetterEntity);
  return {
    async list({ merchantId, ids, after, limit, includeResolved }) {
      const rows = await letters.find({
        where: {
          ...(merchantId !== undefined && { merchantId }),
          id: And(...(ids === undefined ? [] : [In([...ids])]), MoreThan(after ?? '0')),
          ...(!includeResolved && { resolvedAt: IsNull() }),
        },
        order: { id: 'asc' },
        take: limit,
      });
      return rows.map(present);
    },
    async resolve(id) {
      await letters.update({ id }, { resolvedAt: () => 'now()' });
    },
    async refused(id, { code, message }) {
      await letters.update({ id }, { attempts: () => 'attempts + 1', code, message });
      return (await letters.findOneByOrFail({ id })).attempts;
    },
    count: ({ merchantId, ids } = {}) =>
      letters.countBy({
        resolvedAt: IsNull(),
        ...(merchantId !== undefined && { merchantId }),
        ...(ids !== undefined && { id: In([...ids]) }),
      }),
    waiting: ({ merchantIds, startDate, endDate }, transaction) =>
      runSql(transaction, 'waiting-dead-letters', [merchantIds, startDate, endDate], MetricSum),
    async among({ merchantId, date }, entryIds, transaction) {
      const rows = await runSql(transaction, 'dead-letters-among', [merchantId, date, entryIds], EntryRow);
      return new Set(rows.map((row) => row.entry_id));
    },
  };
}

const present = ({ createdAt, resolvedAt, ...row }: DeadLetterRow): DeadLetter => ({
  ...row,
  createdAt: createdAt.toISOString(),
  resolvedAt: resolvedAt?.toISOString() ?? null,
});

/** Where a dead letter came from; the previous release did not record it. */
export function originOf(id: string, line: JournalLine & { origin?: string }): string {
  return line.origin ?? `letter:${id}`;
}
