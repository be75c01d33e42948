import { randomUUID } from 'node:crypto';
import type { Day, EntityType, JobKind, JobStatus, RollupGrain } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { LOCKS } from './locks.ts';
import { DateText, Moment, Units } from './rows.ts';
import { type Executor, runSql, sql } from './run-sql.ts';

export type Period = { start: Day; end: Day };

/** A period with all that is needed to compute it. */
export type PeriodToCompute = Period & {
  /** First day of the period before: what growth is against. */
  previousStart: Day;
  /** ISO weekday (1 Monday … 7 Sunday) where the weeks inside the period are kept; null where not. */
  weeksFrom: number | null;
};

export type JobFailure = { period: string; message: string };

export type RollupJob = {
  id: string;
  kind: JobKind;
  period: Period;
  status: JobStatus;
  periodsTotal: number;
  periodsDone: number;
  periodsFailed: number;
  rows: number;
  attempts: number;
  /** The first 100. */
  errors: JobFailure[];
  started: string;
  finished: string | null;
};

/** A period that must be computed again. */
export type StalePeriod = { grain: RollupGrain; start: Day };

/** A run in progress. It holds a connection of its own, whose lock shows every engine that the run is alive. */
export type RunLease = {
  job: RollupJob;
  /**
   * Computes a period and replaces its rows, in one transaction under the period's lock; the period's stale marks of
   * what it computed go in the same transaction. `all`: of every merchant; `stale`: of the merchants with a stale mark.
   * The platform's rows are computed always. Returns the number of rows written.
   */
  recompute(grain: RollupGrain, period: PeriodToCompute, which: 'all' | 'stale'): Promise<number>;
  /** Returns whether the period has rows. */
  exists(grain: RollupGrain, start: Day): Promise<boolean>;
  /**
   * Marks the periods of every day that was written to before `before` as stale, and clears the marks of these days.
   * A mark whose day is being written to stays for the next run. Returns the number of marks cleared.
   */
  spreadMarks(before: Day, weekStart: number): Promise<number>;
  /** Removes weeks that begin with another weekday, and marks as stale what replaces them; stale ones too. */
  replaceWeeks(weekStart: number): Promise<void>;
  /** Returns the periods that are stale now: days first, then weeks, then months, oldest first. */
  stalePeriods(): Promise<StalePeriod[]>;
  /** Marks a period as stale for all merchants. */
  markStale(period: StalePeriod): Promise<void>;
  /** Records in the log that one more period is done. */
  advance(rows: number, failure?: JobFailure): Promise<void>;
  /** Closes the run. FAILED: every period failed; PARTIAL: some did. */
  finish(): Promise<RollupJob>;
  /** Releases the run; any engine can claim one that is not finished. */
  release(): Promise<void>;
};

export type RollupRow = {
  merchant_id: string;
  entity_type: EntityType;
  entity_id: string;
  metric_type: string;
  period_start: Day;
  period_end: Day;
  value: bigint;
  daily_average: string;
  previous: bigint | null;
  growth_percent: string | null;
  breakdown: { startDate: Day; endDate: Day; value: bigint }[] | null;
};

export type RollupPosition = [periodStart: Day, entityType: string, merchantId: string, entityId: string, type: string];

export type RollupQuestion = {
  startDate: Day;
  endDate: Day;
  merchantId?: string | undefined;
  entityType?: EntityType | undefined;
  entityIds?: readonly string[] | undefined;
  metricTypes?: readonly string[] | undefined;
  limit: number;
  after?: RollupPosition | undefined;
};

export type RollupsStore = {
  /** Begins a run: writes its row in the log, and takes its lease. */
  begin(run: { kind: JobKind; period: Period; periodsTotal: number }): Promise<RunLease>;
  /** Takes over a run that the log says is RUNNING; undefined where its lease is held. */
  claim(jobId: string): Promise<RunLease | undefined>;
  /** Runs that the log says are RUNNING, oldest first. */
  running(): Promise<string[]>;
  /** Rows of the periods that overlap a range, in the order of their key. */
  list(grain: RollupGrain, question: RollupQuestion): Promise<RollupRow[]>;
  /** Returns whether `weekly_metrics` has weeks that begin with another weekday. */
  hasOtherWeeks(weekStart: number): Promise<boolean>;
  /** Returns whether a period of a grain that begins in a range waits to be computed, or computed again. */
  hasStale(grain: RollupGrain, range: { startDate: Day; endDate: Day }): Promise<boolean>;
  /** Removes the log rows of runs that ended before a day; returns how many. */
  prune(before: Day): Promise<number>;
  /** Runs, newest first. */
  log(question: { limit: number; after?: { started: string; id: string } | undefined }): Promise<RollupJob[]>;
};

const TABLE: Record<RollupGrain, string> = {
  daily: 'daily_metrics',
  weekly: 'weekly_metrics',
  monthly: 'monthly_metrics',
};
const LONGEST_DAYS: Record<RollupGrain, number> = { daily: 1, weekly: 7, monthly: 31 };
const COLUMNS =
  'merchant_id, entity_type, entity_id, metric_type, period_start, period_end, value, daily_average, previous, growth_percent, breakdown';
const JOB_COLUMNS =
  'id, kind, period_start, period_end, status, periods_total, periods_done, periods_failed, rows_written, attempts, errors, started_at, finished_at';
const KEY =
  'period_start, entity_type collate "C", merchant_id collate "C", entity_id collate "C", metric_type collate "C"';

const MAX_ERRORS_KEPT = 100;

/** Rollups: `daily_metrics`, `weekly_metrics`, `monthly_metrics`, and the log of the runs that compute them. */
export function createRollupsStore(dataSource: DataSource): RollupsStore {
  /** Takes the lock before it writes the row: a RUNNING row without a lock counts as the run of a dead process. */
  async function lease(jobId: string, row: (runner: Executor) => Promise<RollupJob | undefined>) {
    const runner = dataSource.createQueryRunner();
    await runner.connect();
    const release = async () => {
      await runner
        .query('select pg_advisory_unlock(hashtextextended($1, $2))', [jobId, LOCKS.rollupRun])
        .catch(() => {});
      await runner.release();
    };
    try {
      const [lock] = await runner.query('select pg_try_advisory_lock(hashtextextended($1, $2)) as held', [
        jobId,
        LOCKS.rollupRun,
      ]);
      if (lock.held !== true) {
        await runner.release();
        return undefined;
      }
      const job = await row(runner as Executor);
      if (job) return { runner, job, release };
      await release();
      return undefined;
    } catch (error) {
      await release();
      throw error;
    }
  }

  function working({ runner, job, release }: NonNullable<Awaited<ReturnType<typeof lease>>>): RunLease {
    return {
      job,
      async recompute(grain, { start, end, previousStart, weeksFrom }, which) {
        await runner.startTransaction('READ COMMITTED');
        try {
          await runner.query('select pg_advisory_xact_lock(hashtextextended($1, $2))', [
            `${grain} ${start}`,
            LOCKS.rollupPeriod,
          ]);
          // Before the rows are read: a mark that is set meanwhile waits for this transaction, and stays.
          const [stale] = await runner.query(
            `with cleared as (
               delete from metrics_stale_periods where grain = $1 and period_start = $2 returning merchant_id)
             select coalesce(array_agg(merchant_id order by merchant_id), '{}') as merchants from cleared`,
            [grain, start],
          );
          const { merchants } = StaleRow.parse(stale);
          const merchantIds = which === 'all' || merchants.includes('') ? null : merchants;
          await runner.query(
            `delete from ${TABLE[grain]}
             where period_start = $1 and ($2::text[] is null or merchant_id = '' or merchant_id = any($2))`,
            [start, merchantIds],
          );
          const [written] = await runner.query(
            `with written as (insert into ${TABLE[grain]} (${COLUMNS}) ${sql('rollup-period')} returning 1)
             select count(*) as rows from written`,
            [start, end, previousStart, merchantIds, weeksFrom],
          );
          await runner.commitTransaction();
          return Number(written.rows);
        } catch (error) {
          await runner.rollbackTransaction().catch(() => {});
          throw error;
        }
      },

      async exists(grain, start) {
        const [row] = await runner.query(
          `select exists (select 1 from ${TABLE[grain]} where period_start = $1) as found`,
          [start],
        );
        return row.found === true;
      },

      async spreadMarks(before, weekStart) {
        await runner.startTransaction('READ COMMITTED');
        try {
          const marks = await runSql(runner as Executor, 'spread-marks', [before, weekStart], MarkRow);
          const columns = [marks.map((each) => each.merchant_id), marks.map((each) => each.date)];
          const versions = marks.map((each) => each.version);
          const [row] = await runSql(runner as Executor, 'clear-marks', [...columns, versions], ClearedRow);
          await runner.commitTransaction();
          return row!.cleared;
        } catch (error) {
          await runner.rollbackTransaction().catch(() => {});
          throw error;
        }
      },

      async replaceWeeks(weekStart) {
        const weeks = await runSql(runner as Executor, 'other-weeks', [weekStart], WeekRow);
        await runner.query(sql('replace-weeks'), [weeks.map(({ start }) => start), weekStart]);
      },

      async stalePeriods() {
        const rows = (await runner.query(
          `select grain, period_start as start from metrics_stale_periods
           group by grain, period_start
           order by array_position('{daily,weekly,monthly}'::text[], grain), period_start`,
        )) as unknown[];
        return rows.map((row) => PeriodRow.parse(row));
      },

      async markStale({ grain, start }) {
        await runner.query(
          `insert into metrics_stale_periods (grain, period_start, merchant_id) values ($1, $2, '') on conflict do nothing`,
          [grain, start],
        );
      },

      async advance(rows, failure) {
        job.periodsDone++;
        job.rows += rows;
        if (failure) job.periodsFailed++;
        if (failure && job.errors.length < MAX_ERRORS_KEPT) job.errors.push(failure);
        await runner.query(
          `update metrics_aggregation_jobs_log
           set periods_done = $2, periods_failed = $3, rows_written = $4, errors = $5
           where id = $1`,
          [job.id, job.periodsDone, job.periodsFailed, job.rows, JSON.stringify(job.errors)],
        );
      },

      async finish() {
        const { periodsDone, periodsFailed } = job;
        const status = periodsFailed === 0 ? 'COMPLETED' : periodsFailed < periodsDone ? 'PARTIAL' : 'FAILED';
        const [row] = await runner.query(
          `with closed as (
             update metrics_aggregation_jobs_log
             set status = $2, periods_total = $3, finished_at = clock_timestamp()
             where id = $1 returning *)
           select ${JOB_COLUMNS} from closed`,
          [job.id, status, Math.max(job.periodsTotal, periodsDone)],
        );
        return JobRow.parse(row);
      },

      release,
    };
  }

  return {
    async begin({ kind, period, periodsTotal }) {
      const id = randomUUID();
      const opened = await lease(id, async (runner) => {
        const [row] = (await runner.query(
          `insert into metrics_aggregation_jobs_log (id, kind, period_start, period_end, status, periods_total)
           values ($1, $2, $3, $4, 'RUNNING', $5)
           returning ${JOB_COLUMNS}`,
          [id, kind, period.start, period.end, periodsTotal],
        )) as unknown[];
        return JobRow.parse(row);
      });
      return working(opened!);
    },

    async claim(jobId) {
      const opened = await lease(jobId, async (runner) => {
        const [row] = (await runner.query(
          `with claimed as (
             update metrics_aggregation_jobs_log set attempts = attempts + 1
             where id = $1 and status = 'RUNNING' returning *)
           select ${JOB_COLUMNS} from claimed`,
          [jobId],
        )) as unknown[];
        return row === undefined ? undefined : JobRow.parse(row);
      });
      return opened && working(opened);
    },

    async running() {
      const rows = (await dataSource.query(
        `select id from metrics_aggregation_jobs_log where status = 'RUNNING' order by started_at`,
      )) as { id: string }[];
      return rows.map((row) => row.id);
    },

    async list(grain, { startDate, endDate, merchantId, entityType, entityIds, metricTypes, limit, after }) {
      const values: unknown[] = [startDate, endDate];
      const bind = (value: unknown) => `$${values.push(value)}`;
      // No period is longer than 31 days: the first condition only lets the index be used.
      const conditions = ['period_start between $1::date - 30 and $2::date', 'period_end >= $1::date'];
      if (merchantId !== undefined) conditions.push(`merchant_id = ${bind(merchantId)}`);
      if (entityType) conditions.push(`entity_type = ${bind(entityType)}`);
      if (entityIds?.length) conditions.push(`entity_id = any(${bind(entityIds)}::text[])`);
      if (metricTypes?.length) conditions.push(`metric_type = any(${bind(metricTypes)}::text[])`);
      if (after) {
        const [start, ...texts] = after;
        conditions.push(`(${KEY}) > (${bind(start)}::date, ${texts.map((text) => `${bind(text)}::text`).join(', ')})`);
      }
      const rows = (await dataSource.query(
        `select ${COLUMNS} from ${TABLE[grain]} where ${conditions.join(' and ')} order by ${KEY} limit ${bind(limit)}`,
        values,
      )) as unknown[];
      return rows.map((row) => StoredRow.parse(row));
    },

    async hasOtherWeeks(weekStart) {
      const weeks = await runSql(dataSource, 'other-weeks', [weekStart], WeekRow);
      return weeks.length > 0;
    },

    async hasStale(grain, { startDate, endDate }) {
      const [row] = await dataSource.query(
        `select
           exists (select from metrics_stale_periods where grain = $1 and period_start between $2 and $3)
           or exists (select from usage_touched_days where date between $2 and $3::date + $4::int) as found`,
        [grain, startDate, endDate, LONGEST_DAYS[grain] - 1],
      );
      return row.found === true;
    },

    async prune(before) {
      const [row] = await dataSource.query(
        `with pruned as (
           delete from metrics_aggregation_jobs_log where finished_at < $1::date returning 1)
         select count(*) as rows from pruned`,
        [before],
      );
      return Number(row.rows);
    },

    async log({ limit, after }) {
      const rows = (await dataSource.query(
        `select ${JOB_COLUMNS}
         from metrics_aggregation_jobs_log
         where $2::timestamptz is null or (date_trunc('milliseconds', started_at), id) < ($2, $3::uuid)
         order by date_trunc('milliseconds', started_at) desc, id desc
         limit $1`,
        [limit, after?.started ?? null, after?.id ?? null],
      )) as unknown[];
      return rows.map((row) => JobRow.parse(row));
    },
  };
}

const MarkRow = z.object({ merchant_id: z.string(), date: DateText, version: z.string() });
const ClearedRow = z.object({ cleared: z.string().transform(Number) });
const WeekRow = z.object({ start: DateText });
const StaleRow = z.object({ merchants: z.array(z.string()) });
const PeriodRow = z.object({ grain: z.enum(['daily', 'weekly', 'monthly']), start: DateText });

const StoredRow = z.object({
  merchant_id: z.string(),
  entity_type: z.enum(['merchant', 'user', 'model', 'provider', 'platform']),
  entity_id: z.string(),
  metric_type: z.string(),
  period_start: DateText,
  period_end: DateText,
  value: Units,
  daily_average: z.string(),
  previous: Units.nullable(),
  growth_percent: z.string().nullable(),
  breakdown: z.array(z.object({ startDate: DateText, endDate: DateText, value: Units })).nullable(),
});

const JobRow = z
  .object({
    id: z.string(),
    kind: z.enum(['daily', 'weekly', 'monthly', 'refresh']),
    period_start: DateText,
    period_end: DateText,
    status: z.enum(['RUNNING', 'COMPLETED', 'FAILED', 'PARTIAL']),
    periods_total: z.number(),
    periods_done: z.number(),
    periods_failed: z.number(),
    rows_written: z.string().transform(Number),
    attempts: z.number(),
    errors: z.array(z.object({ period: z.string(), message: z.string() })),
    started_at: Moment,
    finished_at: Moment.nullable(),
  })
  .transform(
    (row): RollupJob => ({
      id: row.id,
      kind: row.kind,
      period: { start: row.period_start, end: row.period_end },
      status: row.status,
      periodsTotal: row.periods_total,
      periodsDone: row.periods_done,
      periodsFailed: row.periods_failed,
      rows: row.rows_written,
      attempts: row.attempts,
      errors: row.errors,
      started: row.started_at,
      finished: row.finished_at,
    }),
  );
