import { randomUUID } from 'node:crypto';
import type { Day, EntityType, JobKind, JobStatus, RollupGrain } from '@tally/contracts';
import type { DataSource, QueryRunner } from 'typeorm';
import { z } from 'zod';
import { RollupJobEntity, type RollupJobRow } from '../entities/rollup-job.ts';
import { LOCKS } from '../locks.ts';
import { afterCommits } from '../one-moment.ts';
import { DateText, Units } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { LessThan } from '../typeorm.ts';

export type Period = { start: Day; end: Day };

/** A period with everything needed to compute it. */
export type PeriodToCompute = Period & {
  /** First day of the previous period, which growth is relative to. */
  previousStart: Day;
  /** ISO weekday (1 Monday … 7 Sunday) if the weeks inside the period are stored; else null. */
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
   * Computes a period and replaces its rows, in one transaction under the period's lock, which also clears the stale
   * marks of what it computed. `all`: every merchant; `stale`: merchants with a stale mark. Always computes the
   * platform's rows. Returns the number of rows written.
   */
  recompute(grain: RollupGrain, period: PeriodToCompute, which: 'all' | 'stale'): Promise<number>;
  /** Returns whether the period has rows. */
  exists(grain: RollupGrain, start: Day): Promise<boolean>;
  /**
   * Marks the periods of every day that changed before `before` as stale, and clears the marks of these days. A mark
   * whose day is being written stays for the next run. Returns the number of marks cleared.
   */
  spreadMarks(before: Day, weekStart: number): Promise<number>;
  /** Removes weeks that begin with another weekday, and marks their replacements as stale; converts stale marks too. */
  replaceWeeks(weekStart: number): Promise<void>;
  /** Returns the stale periods: days first, then weeks, then months, oldest first. */
  stalePeriods(): Promise<StalePeriod[]>;
  /** Marks a period as stale for all merchants. */
  markStale(period: StalePeriod): Promise<void>;
  /** Records in the log that one more period is done. */
  advance(rows: number, failure?: JobFailure): Promise<void>;
  /** Closes the run. FAILED: every period failed; PARTIAL: some did. */
  finish(): Promise<RollupJob>;
  /** Releases the run; any engine can claim an unfinished one. */
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
  /** Starts a run: writes its row in the log, and takes its lease. */
  begin(run: { kind: JobKind; period: Period; periodsTotal: number }): Promise<RunLease>;
  /** Takes over a run that the log lists as RUNNING; undefined if its lease is held. */
  claim(jobId: string): Promise<RunLease | undefined>;
  /** Returns runs that the log lists as RUNNING, oldest first. */
  running(): Promise<string[]>;
  /** Returns rows of the periods that overlap a range, in the order of their key. */
  list(grain: RollupGrain, question: RollupQuestion): Promise<RollupRow[]>;
  /** Returns whether `weekly_metrics` has weeks that begin with another weekday. */
  hasOtherWeeks(weekStart: number): Promise<boolean>;
  /** Returns whether a period of a grain that begins in a range must be computed, or computed again. */
  hasStale(grain: RollupGrain, range: { startDate: Day; endDate: Day }): Promise<boolean>;
  /** Removes the log rows of runs that ended before a day; returns how many. */
  prune(before: Day): Promise<number>;
  /** Returns runs, newest first. */
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
const KEY =
  'period_start, entity_type collate "C", merchant_id collate "C", entity_id collate "C", metric_type collate "C"';

const MAX_ERRORS_KEPT = 100;

/** Rollups: `daily_metrics`, `weekly_metrics`, `monthly_metrics`, and the log of the runs that compute them. */
export function createRollupsStore(dataSource: DataSource): RollupsStore {
  const jobs = dataSource.getRepository(RollupJobEntity);

  /** Takes the lock before it writes the row: a RUNNING row without a lock counts as the run of a dead process. */
  async function lease(jobId: string, row: (runner: QueryRunner) => Promise<RollupJob | undefined>) {
    const runner = dataSource.createQueryRunner();
    await runner.connect();
    const release = async () => {
      await runner.query(sql('locks/release-session-one'), [jobId, LOCKS.rollupRun]).catch(() => {});
      await runner.release();
    };
    try {
      const [lock] = await runner.query(sql('locks/try-session-one'), [jobId, LOCKS.rollupRun]);
      if (lock.held !== true) {
        await runner.release();
        return undefined;
      }
      const job = await row(runner);
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
          await runner.query(sql('locks/hold-one'), [`${grain} ${start}`, LOCKS.rollupPeriod]);
          // Before the rows are read: a mark set meanwhile waits for this transaction, and stays.
          const [stale] = await runSql(runner as Executor, 'clear-stale-period', [grain, start], StaleRow);
          await afterCommits(dataSource, runner as Executor);
          const { merchants } = stale!;
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
        return runSql(runner as Executor, 'stale-periods', [], PeriodRow);
      },

      async markStale({ grain, start }) {
        await runner.query(sql('mark-stale-period'), [grain, start]);
      },

      async advance(rows, failure) {
        job.periodsDone++;
        job.rows += rows;
        if (failure) job.periodsFailed++;
        if (failure && job.errors.length < MAX_ERRORS_KEPT) job.errors.push(failure);
        const { id, periodsDone, periodsFailed, errors } = job;
        await runner.manager.update(
          RollupJobEntity,
          { id },
          { periodsDone, periodsFailed, rows: `${job.rows}`, errors },
        );
      },

      async finish() {
        const { periodsDone, periodsFailed } = job;
        const status: JobStatus =
          periodsFailed === 0 ? 'COMPLETED' : periodsFailed < periodsDone ? 'PARTIAL' : 'FAILED';
        const { id } = job;
        const periodsTotal = Math.max(job.periodsTotal, periodsDone);
        const end = { status, periodsTotal, finishedAt: () => 'clock_timestamp()' };
        await runner.manager.update(RollupJobEntity, { id }, end);
        return present(await runner.manager.findOneByOrFail(RollupJobEntity, { id }));
      },

      release,
    };
  }

  return {
    async begin({ kind, period, periodsTotal }) {
      const id = randomUUID();
      const opened = await lease(id, async (runner) => {
        const run = { id, kind, start: period.start, end: period.end, status: 'RUNNING' as const, periodsTotal };
        await runner.manager.insert(RollupJobEntity, run);
        return present(await runner.manager.findOneByOrFail(RollupJobEntity, { id }));
      });
      return working(opened!);
    },

    async claim(jobId) {
      const opened = await lease(jobId, async (runner) => {
        const which = { id: jobId, status: 'RUNNING' as const };
        const { affected } = await runner.manager.increment(RollupJobEntity, which, 'attempts', 1);
        return affected ? present(await runner.manager.findOneByOrFail(RollupJobEntity, { id: jobId })) : undefined;
      });
      return opened && working(opened);
    },

    async running() {
      const rows = await jobs.find({ select: { id: true }, where: { status: 'RUNNING' }, order: { startedAt: 'asc' } });
      return rows.map((row) => row.id);
    },

    async list(grain, { startDate, endDate, merchantId, entityType, entityIds, metricTypes, limit, after }) {
      const values: unknown[] = [startDate, endDate];
      const bind = (value: unknown) => `$${values.push(value)}`;
      // No period is longer than 31 days: the first condition only enables the index.
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
      const values = [grain, startDate, endDate, LONGEST_DAYS[grain] - 1];
      const [row] = await runSql(dataSource, 'has-stale-period', values, z.object({ found: z.boolean() }));
      return row!.found;
    },

    async prune(before) {
      const { affected } = await jobs.delete({ finishedAt: LessThan(new Date(before)) });
      return affected ?? 0;
    },

    async log({ limit, after }) {
      const page = jobs
        .createQueryBuilder('job')
        // Callers know the start of a run to the millisecond.
        .addSelect(`date_trunc('milliseconds', job.started_at)`, 'moment')
        .orderBy('moment', 'DESC')
        .addOrderBy('job.id', 'DESC')
        .limit(limit);
      if (after)
        page.where(`(date_trunc('milliseconds', job.started_at), job.id) < (:started::timestamptz, :id::uuid)`, after);
      return (await page.getMany()).map(present);
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

const present = ({ start, end, rows, startedAt, finishedAt, ...row }: RollupJobRow): RollupJob => ({
  ...row,
  period: { start, end },
  rows: Number(rows),
  started: startedAt.toISOString(),
  finished: finishedAt?.toISOString() ?? null,
});
