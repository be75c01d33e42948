import { setTimeout as wait } from 'node:timers/promises';
import { type Day, isTallyError, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from './journal-line.ts';
import type { Partitions } from './partitions.ts';
import { DateText, Units } from './rows.ts';
import { type Executor, runSql, sql } from './run-sql.ts';

/** stream: by way of Redis; direct: with Redis away, or too old for it; backfill: older than the retention. */
export type FlushSource = 'stream' | 'direct' | 'backfill';

export type MerchantDay = { merchantId: string; date: Day };

export type Appended = {
  /** Entries given, repeats included. */
  entries: number;
  /** Entries that were new, and so were counted. */
  inserted: number;
  /** The merchants' days whose sums changed. */
  changed: MerchantDay[];
};

export type Batch = {
  source: FlushSource;
  /** A JSON array of journal lines, as text: what comes from the stream is never parsed on its way. */
  lines: string;
  /** Every day that occurs in `lines`. */
  days: readonly Day[];
};

export type Holding = {
  /** The merchants whose flush lock is held. */
  merchantIds: readonly string[];
  /** Counts a batch of these merchants, once per entry whatever is repeated. */
  append(batch: Batch): Promise<Appended>;
  /** Keeps an entry that Postgres refuses, with the reason, to be looked at and retried. */
  bury(line: JournalLine, reason: { code: string; message: string }): Promise<void>;
  /** The transaction itself: for other statements that must stand or fall with it. */
  transaction: Executor;
};

export type Journal = {
  /**
   * Runs `work` in one transaction that holds the flush locks of merchants, and commits when it returns.
   * With `wait: false` merchants that someone else is flushing are left out. Exactly once: an entry counts when its
   * row is new in `usage_events`, and everything summed is summed from the new rows by the same statement.
   * 40001 and 40P01 run `work` again, so it must bear to be repeated. Waits are bounded: 55P03 where
   * someone holds a lock for 20 s. `work` must use the given transaction alone: who waits for the lock holds a
   * connection, so a second one may not be had. Throws TOTAL_LIMIT where a sum would pass bigint.
   */
  exclusively<T>(
    merchantIds: readonly string[],
    options: { wait: boolean },
    work: (holding: Holding) => Promise<T>,
  ): Promise<T>;
  /** The one function that counts: `exclusively` for a batch that is already at hand. */
  append(merchantIds: readonly string[], batch: Batch): Promise<Appended>;
};

const RETRIED = new Set(['40001', '40P01']);
export const OUT_OF_RANGE = '22003';
const MAX_ATTEMPTS = 10;
/** A flush holds a merchant's lock for one piece; work inside reads Redis, whose commands may take 10 s. */
const LOCK_TIMEOUT = '20s';
const IDLE_TIMEOUT = '30s';

const AppendRow = z.object({
  flush_id: Units,
  entries: z.string().transform(Number),
  inserted: z.string().transform(Number),
  changed: z.array(z.object({ merchantId: z.string(), date: DateText })),
});

/** The journal: `usage_events`, and everything that is summed from it in the transaction that counts. */
export function createJournal(dataSource: DataSource, partitions: Partitions): Journal {
  const exclusively: Journal['exclusively'] = async (merchantIds, options, work) => {
    for (let attempt = 1; ; attempt++) {
      try {
        return await dataSource.transaction(async ({ queryRunner }) => {
          const transaction: Executor = queryRunner!;
          await transaction.query(sql('bound-waits'), [LOCK_TIMEOUT, IDLE_TIMEOUT]);
          return work({
            merchantIds: await lock(transaction, merchantIds, options.wait),
            append: (batch) => append(transaction, merchantIds, batch),
            bury: async (line, { code, message }) => {
              await transaction.query(sql('bury'), [JSON.stringify(line), code, message]);
            },
            transaction,
          });
        });
      } catch (error) {
        if (!RETRIED.has(sqlState(error)) || attempt === MAX_ATTEMPTS) throw understood(error);
        await wait(Math.random() * 10 * 2 ** attempt);
      }
    }
  };

  async function append(
    transaction: Executor,
    merchantIds: readonly string[],
    { source, lines, days }: Batch,
  ): Promise<Appended> {
    await partitions.ensure(transaction, days);
    const [row] = await runSql(transaction, 'append', [lines, source], AppendRow);
    const { flush_id, entries, inserted, changed } = row!;
    if (source === 'stream' && inserted < entries) await transaction.query(sql('mark-stale'), [merchantIds, days]);
    const dates = changed.map((each) => each.date).sort();
    const merchants = new Set(changed.map((each) => each.merchantId)).size;
    await transaction.query(sql('close-flush'), [
      flush_id.toString(),
      entries,
      inserted,
      merchants,
      dates[0] ?? null,
      dates.at(-1) ?? null,
    ]);
    return { entries, inserted, changed };
  }

  return {
    exclusively,
    append: (merchantIds, batch) => exclusively(merchantIds, { wait: true }, (holding) => holding.append(batch)),
  };
}

async function lock(transaction: Executor, merchantIds: readonly string[], waits: boolean): Promise<readonly string[]> {
  if (waits) {
    await transaction.query(sql('lock-merchants'), [merchantIds]);
    return merchantIds;
  }
  const rows = await runSql(transaction, 'try-lock-merchants', [merchantIds], z.object({ merchant_id: z.string() }));
  return rows.map((row) => row.merchant_id);
}

/** Whether Postgres refused the entries for their own sake, so that trying them again as they are is no use. */
export function isRefusal(error: unknown): boolean {
  if (isTallyError(error)) return error.code === 'TOTAL_LIMIT' || error.code === 'DAY_CLOSED';
  return /^2[23]/.test(sqlState(error));
}

/** The SQLSTATE of a driver error; '' where there is none, as when the connection broke. */
export function sqlState(error: unknown): string {
  const code = (error as { driverError?: { code?: unknown } } | null)?.driverError?.code;
  return typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? code : '';
}

function understood(error: unknown): unknown {
  if (sqlState(error) !== OUT_OF_RANGE) return error;
  return new TallyError('TOTAL_LIMIT', 'A sum of this merchant would pass 9.2·10^18 units.', { cause: error });
}
