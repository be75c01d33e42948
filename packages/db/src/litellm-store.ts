import type { Day } from '@tally/contracts';
import type { DataSource, QueryRunner } from 'typeorm';
import { z } from 'zod';
import { LOCKS } from './locks.ts';
import { DateText, Moment, Units } from './rows.ts';
import { type Executor, runSql, sql } from './run-sql.ts';

/** schedule: from the end of the last one; hand: a range that was asked for; day: a whole day, once it is complete. */
export type PullKind = 'schedule' | 'hand' | 'day';

/** Sums of a day, in units, as text. */
export type DaySums = {
  requests: string;
  failed: string;
  prompt_tokens: string;
  completion_tokens: string;
  cost: string;
};

export type Pull = {
  id: string;
  kind: PullKind;
  status: 'RUNNING' | 'COMPLETED' | 'FAILED';
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
  /** Sums of the day of `position`, where the pull has read all of that day so far. */
  daySums: (DaySums & { date: Day }) | null;
  error: { code: string; message: string } | null;
  startedAt: string;
  finishedAt: string | null;
};

export type PullProgress = Pick<
  Pull,
  'position' | 'calls' | 'accepted' | 'duplicates' | 'rejected' | 'missing' | 'rejections' | 'daySums'
>;

export type ToldBy = 'calls' | 'sums';

/** A day of the source: whether calls or daily sums are counted, the sums of its calls, and LiteLLM's daily sums. */
export type LitellmDay = {
  date: Day;
  toldBy: ToldBy | null;
  seen: DaySums | null;
  reported: DaySums | null;
  differs: boolean | null;
  error: string | null;
  checkedAt: string | null;
};

/** An id of a call, and the entry it stands for. Amounts are in units; null: not reported. */
export type LitellmCall = {
  merchantId: string;
  alias: string;
  entryId: string;
  /** The entry's time, in milliseconds. */
  time: number;
  /** True where `time` is when the call was reported, not when it began. */
  isSentTime: boolean;
  responseId: string | null;
  failed: boolean | null;
  promptTokens: bigint | null;
  completionTokens: bigint | null;
  cost: bigint | null;
};

/** The right to pull, which one process has at a time: an advisory lock on a connection of its own. */
export type PullLock = {
  /** Returns a pull whose process died before its end; undefined where there is none. */
  unfinished(): Promise<Pull | undefined>;
  begin(pull: { kind: PullKind; start: number; end: number }): Promise<Pull>;
  /** Stores the progress of a pull. Throws where the connection, and so the lock, was lost. */
  advance(id: string, progress: PullProgress): Promise<void>;
  finish(id: string, error: Pull['error']): Promise<Pull>;
  release(): Promise<void>;
};

export type LitellmStore = {
  /** Takes the lock; undefined where another process has it. */
  lock(): Promise<PullLock | undefined>;
  /** Returns pulls, newest first. */
  pulls(limit: number): Promise<Pull[]>;
  /** Returns the start of the first scheduled pull and the position of the last, in ms; null before the first. */
  scheduled(): Promise<{ from: number; to: number } | null>;
  /** Returns when a pull last completed, in milliseconds. */
  lastCompleted(): Promise<number | null>;
  /** Records whether days are counted by calls or by sums, unless that is recorded already. Returns it per day. */
  tell(days: readonly Day[], by: ToldBy): Promise<Map<Day, ToldBy>>;
  /** Stores what is known of a day; fields that are left out stay. */
  noteDay(date: Day, note: Partial<Omit<LitellmDay, 'date' | 'toldBy' | 'checkedAt'>>): Promise<void>;
  /** Returns the days of a range that something is known of, in order. */
  days(from: Day, to: Day): Promise<LitellmDay[]>;
  /**
   * Reads what is known of ids of calls, passes it to `decide` and stores what that returns, one call at a time in all
   * processes: two reports of a call cannot both find it unknown.
   */
  claimCalls(
    asked: readonly Pick<LitellmCall, 'merchantId' | 'alias'>[],
    decide: (known: LitellmCall[]) => LitellmCall[],
  ): Promise<void>;
  /** Deletes pulls before a day, and calls of days whose journal is closed: those can no longer be counted. */
  prune(before: Day): Promise<void>;
};

const COLUMNS =
  'id, kind, status, range_start, range_end, position, calls, accepted, duplicates, rejected, missing, rejections, day_sums, error, started_at, finished_at';

/** Owns `litellm_pulls`, `litellm_days` and `litellm_calls`. */
export function createLitellmStore(dataSource: DataSource): LitellmStore {
  return {
    async lock() {
      const runner = dataSource.createQueryRunner();
      await runner.connect();
      try {
        const [lock] = await runner.query('select pg_try_advisory_lock($1) as held', [LOCKS.litellmPull]);
        if (lock.held === true) return lockOn(runner);
        await runner.release();
        return undefined;
      } catch (error) {
        await runner.release().catch(() => {});
        throw error;
      }
    },

    async pulls(limit) {
      return read(dataSource, `select ${COLUMNS} from litellm_pulls order by started_at desc, id limit $1`, [limit]);
    },

    async scheduled() {
      const [row] = await dataSource.query(
        `select min(range_start) as began, max(position) as came from litellm_pulls where kind = 'schedule'`,
      );
      return row.began === null ? null : { from: row.began.getTime(), to: row.came.getTime() };
    },

    async lastCompleted() {
      const [row] = await dataSource.query(
        `select max(finished_at) as at from litellm_pulls where status = 'COMPLETED'`,
      );
      return row.at === null ? null : row.at.getTime();
    },

    async tell(days, by) {
      const rows = await runSql(dataSource, 'tell-litellm-days', [[...new Set(days)], by], ToldRow);
      return new Map(rows.map((row) => [row.date, row.told_by]));
    },

    async noteDay(date, note) {
      const given = (name: keyof typeof note) => Object.hasOwn(note, name);
      const json = (value: unknown) => (value == null ? null : JSON.stringify(value));
      await dataSource.query(
        `insert into litellm_days as known (date, seen, reported, differs, error, checked_at)
         values ($1, $2::jsonb, $3::jsonb, $4, $5, clock_timestamp())
         on conflict (date) do update set
           seen = case when $6 then excluded.seen else known.seen end,
           reported = case when $7 then excluded.reported else known.reported end,
           differs = case when $8 then excluded.differs else known.differs end,
           error = case when $9 then excluded.error else known.error end,
           checked_at = excluded.checked_at`,
        [
          date,
          json(note.seen),
          json(note.reported),
          note.differs ?? null,
          note.error ?? null,
          given('seen'),
          given('reported'),
          given('differs'),
          given('error'),
        ],
      );
    },

    async days(from, to) {
      const rows = (await dataSource.query(
        `select date, told_by, seen, reported, differs, error, checked_at from litellm_days
         where date between $1 and $2 order by date`,
        [from, to],
      )) as unknown[];
      return rows.map((row) => DayRow.parse(row));
    },

    async claimCalls(asked, decide) {
      await dataSource.transaction(async (transaction) => {
        await transaction.query('select pg_advisory_xact_lock($1)', [LOCKS.litellmClaims]);
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
      await dataSource.query(
        `delete from litellm_pulls where started_at < $1::date and status <> 'RUNNING'
           and id <> all (select id from litellm_pulls where kind = 'schedule' order by position desc limit 1)`,
        [before],
      );
      await dataSource.query(
        `delete from litellm_calls where date <= (select max(date) from usage_closed_days)
           and date in (select date from usage_closed_days)`,
      );
    },
  };
}

function lockOn(runner: QueryRunner): PullLock {
  const executor = runner as Executor;
  return {
    async unfinished() {
      const [pull] = await read(
        executor,
        `select ${COLUMNS} from litellm_pulls where status = 'RUNNING' order by started_at limit 1`,
      );
      return pull;
    },
    async begin({ kind, start, end }) {
      const [pull] = await read(
        executor,
        `insert into litellm_pulls (kind, status, range_start, range_end, position)
         values ($1, 'RUNNING', to_timestamp($2::bigint / 1000.0), to_timestamp($3::bigint / 1000.0),
           to_timestamp($2::bigint / 1000.0))
         returning ${COLUMNS}`,
        [kind, start, end],
      );
      return pull!;
    },
    async advance(id, progress) {
      await executor.query(
        `update litellm_pulls set position = $2, calls = $3, accepted = $4, duplicates = $5, rejected = $6, missing = $7,
           rejections = $8::jsonb, day_sums = $9::jsonb, updated_at = clock_timestamp()
         where id = $1`,
        [
          id,
          progress.position,
          progress.calls,
          progress.accepted,
          progress.duplicates,
          progress.rejected,
          progress.missing,
          JSON.stringify(progress.rejections),
          progress.daySums === null ? null : JSON.stringify(progress.daySums),
        ],
      );
    },
    async finish(id, error) {
      await executor.query(
        `update litellm_pulls set status = $2, error = $3::jsonb, finished_at = clock_timestamp() where id = $1`,
        [id, error ? 'FAILED' : 'COMPLETED', error ? JSON.stringify(error) : null],
      );
      const [pull] = await read(executor, `select ${COLUMNS} from litellm_pulls where id = $1`, [id]);
      return pull!;
    },
    async release() {
      await runner.query('select pg_advisory_unlock($1)', [LOCKS.litellmPull]).catch(() => {});
      await runner.release().catch(() => {});
    },
  };
}

async function read(executor: Executor, text: string, values: readonly unknown[] = []): Promise<Pull[]> {
  const rows = (await executor.query(text, values)) as unknown[];
  return rows.map((row) => PullRow.parse(row));
}

const Amount = z.string().transform(Number);
const Sums = z.object({
  requests: z.string(),
  failed: z.string(),
  prompt_tokens: z.string(),
  completion_tokens: z.string(),
  cost: z.string(),
});

const PullRow = z
  .object({
    id: z.string(),
    kind: z.enum(['schedule', 'hand', 'day']),
    status: z.enum(['RUNNING', 'COMPLETED', 'FAILED']),
    range_start: Moment,
    range_end: Moment,
    position: Moment,
    calls: Amount,
    accepted: Amount,
    duplicates: Amount,
    rejected: Amount,
    missing: Amount,
    rejections: z.array(z.object({ id: z.string().nullable(), code: z.string(), message: z.string() })),
    day_sums: Sums.extend({ date: DateText }).nullable(),
    error: z.object({ code: z.string(), message: z.string() }).nullable(),
    started_at: Moment,
    finished_at: Moment.nullable(),
  })
  .transform(
    ({ range_start, range_end, day_sums, started_at, finished_at, ...row }): Pull => ({
      ...row,
      start: range_start,
      end: range_end,
      daySums: day_sums,
      startedAt: started_at,
      finishedAt: finished_at,
    }),
  );

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

const DayRow = z
  .object({
    date: DateText,
    told_by: z.enum(['calls', 'sums']).nullable(),
    seen: Sums.nullable(),
    reported: Sums.nullable(),
    differs: z.boolean().nullable(),
    error: z.string().nullable(),
    checked_at: Moment.nullable(),
  })
  .transform(({ told_by, checked_at, ...row }): LitellmDay => ({ ...row, toldBy: told_by, checkedAt: checked_at }));
