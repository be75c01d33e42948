import { type Day, isTallyError, midnightNear } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { LOCKS } from '../locks.ts';
import { createTypeNotes, holdRegistry } from '../meters/metric-types-store.ts';
import { DateText, type MerchantDay } from '../rows.ts';
import { type Executor, runPlannedOnce, runSql, sql } from '../run-sql.ts';
import { inTransaction, sqlState } from '../transactions.ts';
import type { Admission, DimensionColumn, FoldedLine } from './admission.ts';
import { countBudgets } from './count-budgets.ts';
import { type JournalLine, type LineToAppend, OLD_ORIGIN } from './journal-line.ts';
import { columnsOf, textArray } from './line-columns.ts';
import type { Partitions } from './partitions.ts';
import { withPseudonyms } from './pseudonyms.ts';
import { checkFence, type Fence } from './shards-store.ts';

/** stream: through Redis; direct: while Redis is unavailable, or too old for it; backfill: older than the retention. */
export type FlushSource = 'stream' | 'direct' | 'backfill';

export type BatchToAppend = {
  source: FlushSource;
  lines: readonly LineToAppend[];
  /** The lease of the shards that the lines come from; nothing is counted if it was lost. */
  fence?: Fence | undefined;
  /** The registry version of meters that the lines were checked with. Throws StaleRegistryError if it changed. */
  registryVersion?: number | undefined;
  /** Called just before the commit; crash tests stop here. */
  beforeCommit?: (() => Promise<void> | void) | undefined;
};

export type Appended = {
  /** Appended lines, including repeats, without those of `skipped`. */
  entries: number;
  /** The recorded flushes. */
  flushes: string[];
  /** Lines that were new and counted. */
  inserted: number;
  /** Positions in the batch of lines whose journal row has another origin. */
  repeats: number[];
  /** Positions in the batch of lines that added nothing and are no conflicts; only without a stream. */
  known: number[];
  /** Positions in the batch of lines whose identity has a row with other content; they are stored as conflicts. */
  conflicts: number[];
  /** Lines with values beyond the limit of their day, which rollups count under `(other)`. */
  folded: FoldedLine[];
  /** The merchants' days whose sums changed. */
  changed: MerchantDay[];
  /** Merchants skipped because a correction or a repair holds their lock: append their lines again later. */
  skipped: string[];
};

/** The outcome of a batch without lines. */
export const NOTHING_APPENDED: Appended = {
  entries: 0,
  flushes: [],
  inserted: 0,
  repeats: [],
  known: [],
  conflicts: [],
  folded: [],
  changed: [],
  skipped: [],
};

export type Journal = {
  /**
   * Counts a batch in one transaction. A line counts if its row is new in `usage_events`; the same statement adds the
   * new rows to the finest rollups. The batch is recorded as a flush, from which the other rollups are derived.
   * Repeating a batch adds nothing. Within 2 hours of a midnight, a line takes the day of the first copy of its event.
   * A line with other content than its row is stored as a conflict. A line of an erased user counts under its
   * pseudonym. From a stream, merchants locked by `exclusively` are skipped; other sources wait for them. 40001 and
   * 40P01 are retried. Throws TOTAL_LIMIT if a sum would exceed bigint, and LeaseLostError.
   */
  append(batch: BatchToAppend): Promise<Appended>;
  /** Predicts the dimensions of a line that rollups would count under `(other)`. */
  predictFolded(line: JournalLine): DimensionColumn[];
  /**
   * Runs `work` in one transaction during which nothing else is counted for these merchants, and commits when it
   * returns. 40001 and 40P01 run `work` again, so it must be repeatable. Waits are bounded: 55P03 if the lock is held
   * for 20 s. `work` must use only the given transaction: waiters hold connections, so a second one may not be
   * available.
   */
  exclusively<T>(merchantIds: readonly string[], work: (transaction: Executor) => Promise<T>): Promise<T>;
  /** The same for all merchants. */
  exclusivelyAll<T>(work: (transaction: Executor) => Promise<T>): Promise<T>;
  /**
   * Stores an event that Postgres rejects as a dead letter, with the reason. Returns false if another line of the same
   * identity is a dead letter: this one is a repeat.
   */
  addDeadLetter(line: LineToAppend, reason: { code: string; message: string }): Promise<boolean>;
};

const INDEX_ROW_TOO_LARGE = '54000';

/**
 * The number of locks (a power of two) that merchants share, so that a batch of ten thousand merchants does not fill
 * the lock table of Postgres. Two merchants with one lock only wait for each other.
 */
const MERCHANT_LOCKS = 256;

const AppendRow = z.object({
  flush_id: z.string(),
  inserted: z.string().transform(Number),
  changed: z.array(z.object({ merchantId: z.string(), date: DateText })),
  ways: z.array(z.string()),
});
const MerchantRow = z.object({ merchant_id: z.string() });
const AddedRow = z.object({ own: z.boolean() });
const ClaimRow = z.object({ claimed: z.number().int() });
const MovedRow = z.object({ position: z.number().int(), date: DateText });
const PositionRow = z.object({ position: z.number().int() });

/** The journal: `usage_events`, and every sum updated in the counting transaction. */
export function createJournal(dataSource: DataSource, partitions: Partitions, admission: Admission): Journal {
  const typeNotes = createTypeNotes();

  async function append(
    transaction: Executor,
    { source, lines, fence, registryVersion, beforeCommit }: BatchToAppend,
  ): Promise<{ appended: Appended; committed(): void }> {
    if (fence) await checkFence(transaction, fence);
    if (registryVersion !== undefined) await holdRegistry(transaction, registryVersion);
    const merchantIds = [...new Set(lines.map((line) => line.merchant_id))];
    const locks = [LOCKS.merchant, MERCHANT_LOCKS, merchantIds, source !== 'stream'];
    const skipped = (await runSql(transaction, 'share-merchants', locks, MerchantRow)).map((row) => row.merchant_id);
    const left = skipped.length === 0 ? lines : lines.filter((line) => !skipped.includes(line.merchant_id));
    if (left.length === 0) {
      return { appended: { ...NOTHING_APPENDED, skipped }, committed() {} };
    }
    await partitions.keepOpen(
      transaction,
      left.map((line) => line.date),
    );
    const placed = await onFirstDays(transaction, await withPseudonyms(transaction, left));
    const { bits, folded, committed } = await admission.admit(transaction, placed);
    const noted = await typeNotes.note(transaction, placed);
    const columns = columnsOf(placed, bits);
    const [row] = await runPlannedOnce(transaction, 'append', [source, ...columns], AppendRow);
    const { flush_id: flushId, inserted, changed, ways } = row!;
    if (ways.length > 0 && inserted > 0) await countBudgets(transaction, flushId, placed, ways);
    let [repeats, known, conflicts]: [number[], number[], number[]] = [[], [], []];
    if (inserted < placed.length) {
      repeats = await repeatsOf(transaction, columns);
      conflicts = await conflictsOf(transaction, source, placed, source === 'stream' ? repeats : [...placed.keys()]);
      if (source !== 'stream') known = await knownOf(transaction, { lines: placed, columns, conflicts, flushId });
      // The flush removes repeats from the running totals itself.
      if (fence === undefined)
        await markStale(
          transaction,
          repeats.map((position) => left[position]!),
        );
    }
    await beforeCommit?.();
    const inBatch = (position: number) => (left === lines ? position : lines.indexOf(left[position]!));
    const appended: Appended = {
      entries: left.length,
      flushes: [flushId],
      inserted,
      repeats: repeats.map(inBatch),
      known: known.map(inBatch),
      conflicts: conflicts.map(inBatch),
      folded: folded.map(({ position, dimensions }) => ({ position: inBatch(position), dimensions })),
      changed,
      skipped,
    };
    return {
      appended,
      committed() {
        committed();
        noted();
      },
    };
  }

  /** Assigns lines near a midnight the day of the first copy of their event. */
  async function onFirstDays(transaction: Executor, lines: readonly LineToAppend[]): Promise<readonly LineToAppend[]> {
    const near: { position: number; midnight: Day }[] = [];
    lines.forEach(({ time }, position) => {
      const midnight = midnightNear(time);
      if (midnight !== undefined) near.push({ position, midnight });
    });
    if (near.length === 0) return lines;
    const column = (of: (line: LineToAppend) => string) => textArray(near.map(({ position }) => of(lines[position]!)));
    const claims = [
      textArray(near.map(({ midnight }) => midnight)),
      column((line) => line.merchant_id),
      column((line) => line.id),
      column((line) => line.date),
    ];
    const [row] = await runSql(transaction, 'claim-midnights', claims, ClaimRow);
    if (row!.claimed === near.length) return lines;
    // A separate statement: a claim committed meanwhile is invisible to the one that conflicted with it.
    const moved = await runSql(transaction, 'midnight-days', claims, MovedRow);
    if (moved.length === 0) return lines;
    await partitions.keepOpen(
      transaction,
      moved.map(({ date }) => date),
    );
    const placed = [...lines];
    for (const { position, date } of moved) {
      const at = near[position]!.position;
      placed[at] = { ...lines[at]!, date };
    }
    return placed;
  }

  async function repeatsOf(transaction: Executor, columns: readonly string[]): Promise<number[]> {
    // A separate statement: a row committed during the insert conflicts with it but is invisible to it.
    const [dates, merchants, ids, origins] = [columns[0], columns[1], columns[2], columns.at(-1)];
    const rows = await runSql(transaction, 'repeats', [dates, merchants, ids, origins, OLD_ORIGIN], PositionRow);
    return rows.map(({ position }) => position);
  }

  async function knownOf(
    transaction: Executor,
    batch: {
      lines: readonly LineToAppend[];
      columns: readonly string[];
      conflicts: readonly number[];
      flushId: string;
    },
  ): Promise<number[]> {
    const { lines, columns, conflicts, flushId } = batch;
    const rows = await runSql(transaction, 'known-before', [...columns.slice(0, 3), flushId], PositionRow);
    const before = new Set(rows.map(({ position }) => position));
    const counted = new Set<string>();
    return [...lines.keys()].filter((position) => {
      if (conflicts.includes(position)) return false;
      const { date, merchant_id, id } = lines[position]!;
      const identity = `${date} ${merchant_id} ${id}`;
      if (before.has(position) || counted.has(identity)) return true;
      // A second line of an identity: around a midnight both got the same day.
      counted.add(identity);
      return false;
    });
  }

  /** Stores those of these lines whose content differs from their row; returns their positions. */
  async function conflictsOf(
    transaction: Executor,
    source: FlushSource,
    lines: readonly LineToAppend[],
    positions: readonly number[],
  ): Promise<number[]> {
    const asked = positions.filter((position) => !lines[position]!.compared);
    if (asked.length === 0) return [];
    const some = asked.map((position) => lines[position]!);
    const values = [source, textArray(some.map((line) => JSON.stringify(line))), ...columnsOf(some)];
    const rows = await runSql(transaction, 'conflicts', values, PositionRow);
    return rows.map(({ position }) => asked[position]!);
  }

  async function markStale(transaction: Executor, repeats: readonly LineToAppend[]): Promise<void> {
    if (repeats.length === 0) return;
    const days = [repeats.map((line) => line.merchant_id), repeats.map((line) => line.date)];
    await transaction.query(sql('mark-stale'), days);
  }

  const exclusively: Journal['exclusively'] = (merchantIds, work) =>
    inTransaction(dataSource, async (transaction) => {
      await transaction.query(sql('lock-merchants'), [LOCKS.merchant, MERCHANT_LOCKS, merchantIds]);
      return work(transaction);
    });

  return {
    async append(batch) {
      await partitions.ensure(batch.lines.map(({ date }) => date));
      const { appended, committed } = await inTransaction(dataSource, (transaction) => append(transaction, batch));
      committed();
      return appended;
    },
    predictFolded: admission.predict,
    exclusively,
    exclusivelyAll: (work) =>
      inTransaction(dataSource, async (transaction) => {
        await transaction.query(sql('lock-all-merchants'), [LOCKS.merchant, MERCHANT_LOCKS]);
        return work(transaction);
      }),
    async addDeadLetter(line, { code, message }) {
      return exclusively([line.merchant_id], async (transaction) => {
        const [named] = await withPseudonyms(transaction, [line]);
        const [row] = await runSql(transaction, 'add-dead-letter', [JSON.stringify(named), code, message], AddedRow);
        return row!.own;
      });
    },
  };
}

/** Returns true if Postgres rejected events for their content, so that retrying them unchanged is useless. */
export function isRefusal(error: unknown): boolean {
  if (isTallyError(error)) return error.code === 'TOTAL_LIMIT' || error.code === 'DAY_CLOSED';
  const state = sqlState(error);
  return /^2[23]/.test(state) || state === INDEX_ROW_TOO_LARGE;
}
