import { addDays, type Day, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { holdLock, LOCKS, passLock, shareLock, tryLock } from '../locks.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { inTransaction, sqlState } from '../transactions.ts';

export type Partitions = {
  /**
   * Ensures that the journal has a partition for each day that is not closed. Call it before the transaction that writes
   * events: whoever sees a flush must see the partitions of all its events (ADR 830).
   */
  ensure(days: readonly Day[]): Promise<void>;
  /**
   * Keeps days open until the transaction ends. Throws DAY_CLOSED with all closed days in `details.days`: their events
   * are gone, so a repeat could no longer be recognised.
   */
  keepOpen(transaction: Executor, days: readonly Day[]): Promise<void>;
  /** Returns those of these days that still have their events; they keep them until the transaction ends. */
  open(transaction: Executor, days: readonly Day[]): Promise<Day[]>;
  /** Returns days before `firstKept` without writes since `quietSince`. */
  closable(firstKept: Day, quietSince: Date): Promise<Day[]>;
  /**
   * Stores the sums of a day's events and drops its partition. Others wait only for the drop. Returns false if it was
   * closed already, if something still needs the events (a derivation, a dead letter, an event counted meanwhile), and
   * if a reader of the journal does not end within 2 s. With `archived`, also returns false unless the day has this
   * many events: one was counted after the archiving.
   */
  close(day: Day, archived?: number): Promise<boolean>;
  /** Returns whether the events of a day were dropped. */
  isClosed(day: Day): Promise<boolean>;
};

/** The message for an event of a closed day. */
export const dayClosed = (day: Day): string => `The journal of ${day} is closed; use an adjustment.`;

/** A lock was not available in time, or would never have been. */
const BUSY = new Set(['55P03', '40P01']);
/** While a drop waits for readers of the journal, all other readers and writers wait for it. */
const LOCK_TIMEOUT = '2s';
/** A day may have a hundred million events. */
const STATEMENT_TIMEOUT = '30min';

/** The journal's partitions, one per day, `usage_events_20261122`: created by the first write, dropped as a whole. */
export function createPartitions(dataSource: DataSource): Partitions {
  const known = new Set<Day>();

  return {
    async ensure(days) {
      const asked = [...new Set(days)].filter((day) => !known.has(day));
      if (asked.length === 0) return;
      const open = await inTransaction(dataSource, async (transaction) => {
        const closed = await keepOthersOpen(transaction, asked);
        const open = asked.filter((day) => !closed.includes(day));
        // Another process may have attached a partition that some sessions do not know yet; it holds this until they do.
        await holdLock(transaction, LOCKS.partitions);
        await createMissing(transaction, open);
        return open;
      });
      for (const day of open) known.add(day);
    },

    async keepOpen(transaction, days) {
      const closed = await keepOthersOpen(transaction, days);
      if (closed.length > 0) throw new TallyError('DAY_CLOSED', dayClosed(closed[0]!), { details: { days: closed } });
    },

    async open(transaction, days) {
      const closed = await keepOthersOpen(transaction, days);
      return days.filter((day) => !closed.includes(day));
    },

    async closable(firstKept, quietSince) {
      const rows = await runSql(dataSource, 'closable-days', [firstKept, quietSince], DateRow);
      return rows.map((row) => row.date);
    },

    async close(day, archived) {
      try {
        await dataSource.transaction(({ queryRunner }) => close(queryRunner!, day, archived));
      } catch (error) {
        if (error instanceof NotClosed || BUSY.has(sqlState(error))) return false;
        throw error;
      }
      known.delete(day);
      return true;
    },

    async isClosed(day) {
      return (await closedOf(dataSource, [day])).length > 0;
    },
  };
}

const DateRow = z.object({ date: DateText });
const Kept = z.object({ entries: z.string().transform(Number), lastWrite: z.string().nullable() });

async function closedOf(transaction: Executor, days: readonly Day[]): Promise<Day[]> {
  const rows = await runSql(transaction, 'closed-days', [[...new Set(days)]], DateRow);
  return rows.map(({ date }) => date);
}

/** Returns the closed days, and keeps all others open until the transaction ends. */
async function keepOthersOpen(transaction: Executor, days: readonly Day[]): Promise<Day[]> {
  await shareLock(transaction, LOCKS.closing);
  return closedOf(transaction, days);
}

/** Whatever takes longer for more events comes before the lock for which all that count wait. */
async function close(transaction: Executor, day: Day, archived: number | undefined): Promise<void> {
  await transaction.query(sql('closing-waits'), [LOCK_TIMEOUT, STATEMENT_TIMEOUT]);
  if (!(await tryLock(transaction, LOCKS.closer))) throw new NotClosed();
  // Citus otherwise writes the shards of a node over several connections, and cannot read them again before the end.
  await transaction.query(sql('one-connection-a-node'));
  if ((await closedOf(transaction, [day])).length > 0) throw new NotClosed();
  // Flushes up to this one are committed once the lock was passed, so the sums have them; later ones are looked for.
  const [latest] = await runSql(transaction, 'latest-flush-id', [], z.object({ id: z.string() }));
  await passLock(transaction, LOCKS.closing);
  const isNeeded = async () =>
    (await runSql(transaction, 'day-is-needed', [day, latest!.id], z.object({ found: z.boolean() })))[0]!.found;
  if (await isNeeded()) throw new NotClosed();
  const [kept] = await runSql(transaction, 'close-day', [day], Kept);
  if (archived !== undefined && kept!.entries !== archived) throw new NotClosed();
  await transaction.query(sql('add-closed-day'), [day, kept!.entries, kept!.lastWrite]);
  await transaction.query(sql('forget-identities'), [day]);
  await holdLock(transaction, LOCKS.closing);
  if (await isNeeded()) throw new NotClosed();
  await transaction.query(`drop table if exists ${partitionOf(day)}`);
}

/** Rolls back the closing of a day that is closed already, or must stay open. */
class NotClosed extends Error {}

async function createMissing(transaction: Executor, days: readonly Day[]): Promise<void> {
  const missing = await runSql(transaction, 'missing-partitions', [days, days.map(partitionOf)], DateRow);
  for (const { date } of missing) {
    const name = partitionOf(date);
    await transaction.query(`create table ${name} (like usage_events including defaults including constraints)`);
    // Unlike CREATE … PARTITION OF, it blocks no writers.
    await transaction.query(
      `alter table usage_events attach partition ${name} for values from ('${date}') to ('${addDays(date, 1)}')`,
    );
  }
}

/** Callers validate days, so the name contains only digits. */
function partitionOf(day: Day): string {
  return `usage_events_${day.replaceAll('-', '')}`;
}
