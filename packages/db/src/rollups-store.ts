import { randomUUID } from 'node:crypto';
import type { Day, EntityType, JobKind, JobStatus, RollupGrain } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { DateText, Moment, Units } from './rows.ts';
import { type Executor, sql } from './run-sql.ts';

export type Period = { start: Day; end: Day };

/** What one period needs to be computed. */
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
  rows: number;
  attempts: number;
  errors: JobFailure[];
  started: string;
  finished: string | null;
};

/** A day of a merchant that was written to since its rollups were computed, and the version of its mark. */
export type Mark = { merchantId: string; date: Day; version: string };

/** A run under way: a connection of its own, whose lock says to everybody that the run is alive. */
export type Lane = {
  job: RollupJob;
  /**
   * Computes a period afresh and puts it in place of what was there, in one transaction under the period's lock.
   * For some merchants or for all (null); the platform's rows always. Returns the rows written.
   */
  recompute(grain: RollupGrain, period: PeriodToCompute, merchantIds: readonly string[] | null): Promise<number>;
  /** Whether the period has rows. */
  exists(grain: RollupGrain, start: Day): Promise<boolean>;
  /** Marks of days before `before`, all of the earliest month that has any. */
  marks(before: Day): Promise<Mark[]>;
  /** Takes marks away, each only if nothing was written to its day since it was read. Returns how many it took. */
  unmark(marks: readonly Mark[]): Promise<number>;
  /** Notes one more period done in the log. */
  advance(rows: number, failure?: JobFailure): Promise<void>;
  /** Closes the log row with the status that its errors say. */
  finish(): Promise<RollupJob>;
  /** Lets go of the run; one that is not finished can be claimed by anyone. */
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
  /** Begins a run: its row in the log, and its lane. */
  begin(run: { kind: JobKind; period: Period; periodsTotal: number }): Promise<Lane>;
  /** Takes over a run that is RUNNING in the log while nobody works on it; undefined where somebody does. */
  claim(jobId: string): Promise<Lane | undefined>;
  /** Runs that the log says are RUNNING, oldest first. */
  running(): Promise<string[]>;
  /** Rows of the periods that overlap a range, in the order of their key. */
  list(grain: RollupGrain, question: RollupQuestion): Promise<RollupRow[]>;
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
const COLUMNS =
  'merchant_id, entity_type, entity_id, metric_type, period_start, period_end, value, daily_average, previous, growth_percent, breakdown';
const JOB_COLUMNS =
  'id, kind, period_start, period_end, status, periods_total, periods_done, rows_written, attempts, errors, started_at, finished_at';
const KEY =
  'period_start, entity_type collate "C", merchant_id collate "C", entity_id collate "C", metric_type collate "C"';

/** Seeds of the advisory locks: of a run, of a period. */
const RUN_LOCK = 7423;
const PERIOD_LOCK = 7424;
const MAX_ERRORS_KEPT = 100;

/** Rollups: `daily_metrics`, `weekly_metrics`, `monthly_metrics`, and the log of the runs that compute them. */
export function createRollupsStore(dataSource: DataSource): RollupsStore {
  /** The lock before the row: a RUNNING row without a lock would be taken for a dead one's. */
  async function lane(jobId: string, row: (runner: Executor) => Promise<RollupJob | undefined>) {
    const runner = dataSource.createQueryRunner();
    await runner.connect();
    const release = async () => {
      await runner.query('select pg_advisory_unlock(hashtextextended($1, $2))', [jobId, RUN_LOCK]).catch(() => {});
      await runner.release();
    };
    try {
      const [lock] = await runner.query('select pg_try_advisory_lock(hashtextextended($1, $2)) as held', [
        jobId,
        RUN_LOCK,
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

  function working({ runner, job, release }: NonNullable<Awaited<ReturnType<typeof lane>>>): Lane {
    return {
      job,
      async recompute(grain, { start, end, previousStart, weeksFrom }, merchantIds) {
        await runner.startTransaction('READ COMMITTED');
        try {
          await runner.query('select pg_advisory_xact_lock(hashtextextended($1, $2))', [
            `${grain} ${start}`,
            PERIOD_LOCK,
          ]);
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

      async marks(before) {
        const rows = (await runner.query(
          `select merchant_id, date, xmin::text as version
           from usage_touched_days
           where date < $1
             and date < (select date_trunc('month', min(date)) + interval '1 month' from usage_touched_days)
           order by merchant_id, date`,
          [before],
        )) as unknown[];
        return rows.map((row) => MarkRow.parse(row));
      },

      async unmark(marks) {
        // A flush that writes to the day makes another version of its mark, which stays; one that is about to holds the
        // row, so waiting for it would be in vain, and could deadlock.
        const rows = (await runner.query(
          `with free as (
             select mark.merchant_id, mark.date
             from usage_touched_days as mark
             join unnest($1::text[], $2::date[], $3::text[]) as read (merchant_id, date, version)
               on mark.merchant_id = read.merchant_id and mark.date = read.date and mark.xmin::text = read.version
             for update of mark skip locked),
           taken as (
             delete from usage_touched_days as mark using free
             where mark.merchant_id = free.merchant_id and mark.date = free.date
             returning 1)
           select count(*) as taken from taken`,
          [marks.map((each) => each.merchantId), marks.map((each) => each.date), marks.map((each) => each.version)],
        )) as { taken: string }[];
        return Number(rows[0]!.taken);
      },

      async advance(rows, failure) {
        job.periodsDone++;
        job.rows += rows;
        if (failure && job.errors.length < MAX_ERRORS_KEPT) job.errors.push(failure);
        await runner.query(
          `update metrics_aggregation_jobs_log set periods_done = $2, rows_written = $3, errors = $4 where id = $1`,
          [job.id, job.periodsDone, job.rows, JSON.stringify(job.errors)],
        );
      },

      async finish() {
        const failed = job.errors.length;
        const status = failed === 0 ? 'COMPLETED' : failed < job.periodsDone ? 'PARTIAL' : 'FAILED';
        const [row] = await runner.query(
          `with closed as (
             update metrics_aggregation_jobs_log
             set status = $2, periods_total = $3, finished_at = clock_timestamp()
             where id = $1 returning *)
           select ${JOB_COLUMNS} from closed`,
          [job.id, status, Math.max(job.periodsTotal, job.periodsDone)],
        );
        return JobRow.parse(row);
      },

      release,
    };
  }

  return {
    async begin({ kind, period, periodsTotal }) {
      const id = randomUUID();
      const opened = await lane(id, async (runner) => {
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
      const opened = await lane(jobId, async (runner) => {
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

const MarkRow = z
  .object({ merchant_id: z.string(), date: DateText, version: z.string() })
  .transform(({ merchant_id, ...row }) => ({ merchantId: merchant_id, ...row }));

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
      rows: row.rows_written,
      attempts: row.attempts,
      errors: row.errors,
      started: row.started_at,
      finished: row.finished_at,
    }),
  );
