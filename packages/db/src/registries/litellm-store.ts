import type { Day } from '@tally/contracts';
import type { DataSource, EntityManager, QueryRunner } from 'typeorm';
import { z } from 'zod';
import {
  type DaySums,
  LitellmDayEntity,
  type LitellmDayRow,
  LitellmPullEntity,
  type LitellmPullRow,
} from '../entities/litellm.ts';
import { holdLock, LOCKS } from '../locks.ts';
import { DateText, Units } from '../rows.ts';
import { runSql, sql } from '../run-sql.ts';
import { Between } from '../typeorm.ts';

export type { DaySums };

export type PullKind = LitellmPullRow['kind'];

export type Pull = {
  id: string;
  kind: PullKind;
  status: LitellmPullRow['status'];
  start: string;
  end: string;
  /** Everything before this time is recorded. */
  position: string;
  calls: number;
  accepted: number;
  duplicates: number;
  rejected: number;
  /** Rows that LiteLLM counted but did not return. */
  missing: number;
  rejections: { id: string | null; code: string; message: string }[];
  /** Sums of the day of `position`, if the pull has read all of that day so far. */
  daySums: (DaySums & { date: Day }) | null;
  error: { code: string; message: string } | null;
  startedAt: string;
  finishedAt: string | null;
};

export type PullProgress = Pick<
  Pull,
  'position' | 'calls' | 'accepted' | 'duplicates' | 'rejected' | 'missing' | 'rejections' | 'daySums'
>;

export type ToldBy = NonNullable<LitellmDayRow['toldBy']>;

/** A day of the source: what is counted (calls or daily sums), the sums of its calls, and LiteLLM's daily sums. */
export type LitellmDay = Omit<LitellmDayRow, 'checkedAt'> & { checkedAt: string | null };

/** An id of a call, and the event it stands for. Amounts are in units; null: not reported. */
export type LitellmCall = {
  merchantId: string;
  alias: string;
  entryId: string;
  /** The event's time, in milliseconds. */
  time: number;
  /** True if `time` is when the call was reported, not when it began. */
  isSentTime: boolean;
  responseId: string | null;
  failed: boolean | null;
  promptTokens: bigint | null;
  completionTokens: bigint | null;
  cost: bigint | null;
};

/** The right to pull, held by one process at a time: an advisory lock on a connection of its own. */
export type PullLock = {
  /** Returns a pull whose process died before its end; undefined if there is none. */
  unfinished(): Promise<Pull | undefined>;
  begin(pull: { kind: PullKind; start: number; end: number }): Promise<Pull>;
  /** Stores the progress of a pull. Throws if the connection, and so the lock, was lost. */
  advance(id: string, progress: PullProgress): Promise<void>;
  finish(id: string, error: Pull['error']): Promise<Pull>;
  release(): Promise<void>;
};

export type LitellmStore = {
  /** Takes the lock; undefined if another process has it. */
  lock(): Promise<PullLock | undefined>;
  /** Returns pulls, newest first. */
  pulls(limit: number): Promise<Pull[]>;
  /** Returns the start of the first scheduled pull and the position of the last, in ms; null before the first. */
  scheduled(): Promise<{ from: number; to: number } | null>;
  /** Returns when a pull last completed, in milliseconds. */
  lastCompleted(): Promise<number | null>;
  /**
   * Records whether days are counted by calls or by sums, unless that is recorded already. Returns the record of each
   * day.
   */
  tell(days: readonly Day[], by: ToldBy): Promise<Map<Day, ToldBy>>;
  /** Stores facts about a day; absent fields stay unchanged. */
  noteDay(date: Day, note: Partial<Omit<LitellmDay, 'date' | 'toldBy' | 'checkedAt'>>): Promise<void>;
  /** Returns the days of a range with recorded facts, in order. */
  days(from: Day, to: Day): Promise<LitellmDay[]>;
  /**
   * Reads the records of ids of calls, passes them to `decide` and stores its result, one call at a time over all
   * processes, so that two reports of a call cannot both find it unknown.
   */
  claimCalls(
    asked: readonly Pick<LitellmCall, 'merchantId' | 'alias'>[],
    decide: (known: LitellmCall[]) => LitellmCall[],
  ): Promise<void>;
  /** Deletes pulls before a day, and calls of days whose journal is closed: those can no longer be counted. */
  prune(before: Day): Promise<void>;
};

/** LiteLLM's pulls, days and calls, in `litellm_pulls`, `litellm_days` and `litellm_calls`. */
export function createLitellmStore(dataSource: DataSource): LitellmStore {
  const pulls = dataSource.getRepository(LitellmPullEntity);
  return {
    async lock() {
      const runner = dataSource.createQueryRunner();
      await runner.connect();
      try {
        const [lock] = await runner.query(sql('locks/try-session'), [LOCKS.litellmPull]);
        if (lock.held === true) return lockOn(runner);
        await runner.release();
        return undefined;
      } catch (error) {
        await runner.release().catch(() => {});
        throw error;
      }
    },

    async pulls(limit) {
      const rows = await pulls.find({ order: { startedAt: 'desc', id: 'asc' }, take: limit });
      return rows.map(present);
    },

    async scheduled() {
      const [row] = await dataSource.query(sql('litellm/scheduled'));
      return row.began === null ? null : { from: row.began.getTime(), to: row.came.getTime() };
    },

    async lastCompleted() {
      const [row] = await dataSource.query(sql('litellm/last-completed'));
      return row.at === null ? null : row.at.getTime();
    },

    async tell(days, by) {
      const rows = await runSql(dataSource, 'tell-litellm-days', [[...new Set(days)], by], ToldRow);
      return new Map(rows.map((row) => [row.date, row.told_by]));
    },

    async noteDay(date, note) {
      const given = (name: keyof typeof note) => Object.hasOwn(note, name);
      const json = (value: unknown) => (value == null ? null : JSON.stringify(value));
      await dataSource.query(sql('litellm/note-day'), [
        date,
        json(note.seen),
        json(note.reported),
        note.differs ?? null,
        note.error ?? null,
        given('seen'),
        given('reported'),
        given('differs'),
        given('error'),
      ]);
    },

    async days(from, to) {
      const rows = await dataSource.getRepository(LitellmDayEntity).find({
        where: { date: Between(from, to) },
        order: { date: 'asc' },
      });
      return rows.map((row) => ({ ...row, checkedAt: row.checkedAt?.toISOString() ?? null }));
    },

    async claimCalls(asked, decide) {
      await dataSource.transaction(async (transaction) => {
        await holdLock(transaction, LOCKS.litellmClaims);
        const of = asked.map(({ merchantId, alias }) => [merchantId, alias] as const);
        const columns = [of.map(([merchantId]) => merchantId), of.map(([, alias]) => alias)];
        const notes = decide(await runSql(transaction, 'find-litellm-calls', columns, CallRow));
        if (notes.length === 0) return;
        await transaction.query(sql('note-litellm-calls'), [
          notes.map((note) => note.merchantId),
          notes.map((note) => note.alias),
          notes.map((note) => note.entryId),
          notes.map((note) => note.time),
          notes.map((note) => note.isSentTime),
          notes.map((note) => note.responseId),
          notes.map((note) => note.failed),
          notes.map((note) => note.promptTokens),
          notes.map((note) => note.completionTokens),
          notes.map((note) => note.cost),
        ]);
      });
    },

    async prune(before) {
      await dataSource.query(sql('litellm/prune-pulls'), [before]);
      await dataSource.query(sql('litellm/prune-calls'));
    },
  };
}

function lockOn(runner: QueryRunner): PullLock {
  const { manager } = runner;
  return {
    async unfinished() {
      const row = await manager.findOne(LitellmPullEntity, {
        where: { status: 'RUNNING' },
        order: { startedAt: 'asc' },
      });
      return row ? present(row) : undefined;
    },
    async begin({ kind, start, end }) {
      const range = { start: new Date(start), end: new Date(end), position: new Date(start) };
      const { identifiers } = await manager.insert(LitellmPullEntity, { kind, status: 'RUNNING', ...range });
      return pullOf(manager, identifiers[0]!.id);
    },
    async advance(id, { position, calls, accepted, duplicates, rejected, missing, rejections, daySums }) {
      await manager.update(
        LitellmPullEntity,
        { id },
        {
          position: new Date(position),
          calls: `${calls}`,
          accepted: `${accepted}`,
          duplicates: `${duplicates}`,
          rejected: `${rejected}`,
          missing: `${missing}`,
          rejections,
          daySums,
          updatedAt: () => 'clock_timestamp()',
        },
      );
    },
    async finish(id, error) {
      const status = error ? 'FAILED' : 'COMPLETED';
      await manager.update(LitellmPullEntity, { id }, { status, error, finishedAt: () => 'clock_timestamp()' });
      return pullOf(manager, id);
    },
    async release() {
      await runner.query(sql('locks/release-session'), [LOCKS.litellmPull]).catch(() => {});
      await runner.release().catch(() => {});
    },
  };
}

async function pullOf(manager: EntityManager, id: string): Promise<Pull> {
  return present(await manager.findOneByOrFail(LitellmPullEntity, { id }));
}

const present = ({ updatedAt: _, ...row }: LitellmPullRow): Pull => ({
  ...row,
  start: row.start.toISOString(),
  end: row.end.toISOString(),
  position: row.position.toISOString(),
  calls: Number(row.calls),
  accepted: Number(row.accepted),
  duplicates: Number(row.duplicates),
  rejected: Number(row.rejected),
  missing: Number(row.missing),
  startedAt: row.startedAt.toISOString(),
  finishedAt: row.finishedAt?.toISOString() ?? null,
});

const ToldRow = z.object({ date: DateText, told_by: z.enum(['calls', 'sums']) });

const CallRow = z
  .object({
    merchant_id: z.string(),
    alias: z.string(),
    entry_id: z.string(),
    time: z.date(),
    is_sent_time: z.boolean(),
    response_id: z.string().nullable(),
    failed: z.boolean().nullable(),
    prompt_tokens: Units.nullable(),
    completion_tokens: Units.nullable(),
    cost: Units.nullable(),
  })
  .transform(
    (row): LitellmCall => ({
      merchantId: row.merchant_id,
      alias: row.alias,
      entryId: row.entry_id,
      time: row.time.getTime(),
      isSentTime: row.is_sent_time,
      responseId: row.response_id,
      failed: row.failed,
      promptTokens: row.prompt_tokens,
      completionTokens: row.completion_tokens,
      cost: row.cost,
    }),
  );
