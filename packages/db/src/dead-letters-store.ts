import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine, LineToAppend } from './journal-line.ts';
import { DateText, Moment } from './rows.ts';
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
  /** How many wait for someone to look at them. */
  count(): Promise<number>;
  /** The unresolved events of some merchants, with their origin: accepted, but counted nowhere in Postgres. */
  waiting(merchantIds: readonly string[], transaction: Executor): Promise<LineToAppend[]>;
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

const Waiting = z.object({
  id: z.string(),
  line: z.custom<LineToAppend>((line) => typeof line === 'object' && line !== null),
});

/** Entries that were acknowledged and that Postgres refused for their own sake. */
export function createDeadLettersStore(dataSource: DataSource): DeadLettersStore {
  return {
    list: ({ merchantId, ids, after, limit, includeResolved }) =>
      runSql(dataSource, 'dead-letters', [merchantId ?? null, ids ?? null, after ?? '0', limit, includeResolved], Row),
    async resolve(id) {
      await dataSource.query('update usage_dead_letters set resolved_at = now() where id = $1', [id]);
    },
    async count() {
      const [row] = await dataSource.query(
        'select count(*) as count from usage_dead_letters where resolved_at is null',
      );
      return Number(row.count);
    },
    async waiting(merchantIds, transaction) {
      const letters = await runSql(transaction, 'waiting-letters', [merchantIds], Waiting);
      return letters.map(({ id, line }) => ({ ...line, origin: originOf(id, line) }));
    },
  };
}

/** Where a dead letter came from; those of the previous release did not keep it. */
export function originOf(id: string, line: JournalLine & { origin?: string }): string {
  return line.origin ?? `letter:${id}`;
}
