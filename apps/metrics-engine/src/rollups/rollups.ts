import {
  addDays,
  countDays,
  type Day,
  type Drained,
  dayOf,
  messageOf,
  type RollupBackfill,
  type RollupGrain,
  TallyError,
} from '@tally/contracts';
import { type Db, type Period, type RollupJob, type RunLease, sqlState } from '@tally/db';
import { lastComplete, periodBefore, periodOf, periodsOf, type Weekday } from './periods.ts';

export type RollupsOptions = {
  db: Pick<Db, 'rollups'>;
  /** ISO weekday that weeks begin with. */
  weekStart: Weekday;
  /** The longest range of one backfill, in days. */
  maxBackfillDays: number;
  now: () => number;
  /** Flushes what was acknowledged before the call to Postgres; returns how fresh a run that begins afterwards is. */
  drain(): Promise<Drained>;
  /** Called for every run that ends, and for every period that fails. */
  onFinished?(job: RollupJob): void;
  onFailure?(grain: RollupGrain, period: Period, error: unknown): void;
};

export type Rollups = {
  /** Computes the period of `date`; without a date, the last one that was complete at `at` (default: now). */
  run(grain: RollupGrain, which?: { date?: Day | undefined; at?: number }): Promise<RollupBackfill>;
  /** Computes every period that overlaps the range; one that fails does not stop the others. */
  backfill(grain: RollupGrain, range: { startDate: Day; endDate: Day }): Promise<RollupBackfill>;
  /**
   * Computes every stale period that is complete: those of changed days, those after them, whose growth changed, and
   * those that failed before. Each period is computed once; later writes are for the next refresh. A period stays stale
   * until it is computed, so a crash or a failure loses none.
   */
  refresh(): Promise<RollupBackfill & { daysTouched: number }>;
  /**
   * Takes over the runs of processes that died, and replaces weeks of an older `weekStart`. Returns the number of
   * finished runs.
   */
  recover(): Promise<number>;
  /** Stops between two periods; interrupted runs stay RUNNING and the next engine takes them over. */
  stop(): Promise<void>;
};

const RETRIED = new Set(['40001', '40P01']);
const MAX_ATTEMPTS = 5;
/** Each run holds one connection of the pool. */
const MAX_RUNS = 4;

type Done = RollupBackfill['periods'][number];

/** Computes rollups; any number of engines may, each period is computed under its lock. */
export function createRollups(options: RollupsOptions): Rollups {
  const { db, weekStart, now } = options;
  const today = () => dayOf(now());
  const underWay = new Set<Promise<unknown>>();
  let stopping = false;

  async function compute(lease: RunLease, grain: RollupGrain, period: Period, which: 'all' | 'stale') {
    const previousStart = periodBefore(grain, period, weekStart).start;
    const weeksFrom = grain === 'monthly' ? weekStart : null;
    for (let attempt = 1; ; attempt++) {
      try {
        return await lease.recompute(grain, { ...period, previousStart, weeksFrom }, which);
      } catch (error) {
        if (!RETRIED.has(sqlState(error)) || attempt === MAX_ATTEMPTS) throw error;
      }
    }
  }

  /** Computes periods one after the other, and records each in the log. */
  async function computeAll(lease: RunLease, grain: RollupGrain, periods: readonly Period[]): Promise<Done[]> {
    const done: Done[] = [];
    for (const period of periods) {
      if (stopping) throw new TallyError('UNAVAILABLE', 'The engine is stopping; another one goes on with this run.');
      const started = performance.now();
      try {
        const rows = await compute(lease, grain, period, 'all');
        await lease.advance(rows);
        done.push(outcome(period, started, rows));
      } catch (error) {
        options.onFailure?.(grain, period, error);
        const failure = { period: period.start, message: reasonOf(error) };
        await lease.markStale({ grain, start: period.start });
        await lease.advance(0, failure);
        done.push(outcome(period, started, 0, failure));
      }
    }
    return done;
  }

  /** Computes the remaining periods of a run. */
  async function work(lease: RunLease): Promise<Done[]> {
    const { kind, period, periodsDone } = lease.job;
    if (kind === 'refresh') return (await computeStale(lease)).done;
    return computeAll(lease, kind, periodsOf(kind, period.start, period.end, weekStart).slice(periodsDone));
  }

  async function computeStale(lease: RunLease): Promise<{ done: Done[]; daysTouched: number }> {
    const done: Done[] = [];
    await lease.replaceWeeks(weekStart);
    const daysTouched = await lease.spreadMarks(today(), weekStart);
    for (const { grain, start } of await lease.stalePeriods()) {
      if (stopping) throw new TallyError('UNAVAILABLE', 'The engine is stopping; another one goes on.');
      const period = periodOf(grain, start, weekStart);
      // A period that is not over is computed only if somebody has run it already.
      if (period.end >= today() && !(await lease.exists(grain, start))) continue;
      const started = performance.now();
      try {
        const rows = await compute(lease, grain, period, 'stale');
        await lease.advance(rows);
        done.push(outcome(period, started, rows));
      } catch (error) {
        options.onFailure?.(grain, period, error);
        const failure = { period: `${grain} ${start}`, message: reasonOf(error) };
        await lease.advance(0, failure);
        done.push(outcome(period, started, 0, failure));
      }
    }
    return { done, daysTouched };
  }

  /** Adds a run to those that `stop` waits for. */
  function track<T>(work: () => Promise<T>): Promise<T> {
    if (stopping) return Promise.reject(new TallyError('UNAVAILABLE', 'The engine is stopping.'));
    if (underWay.size >= MAX_RUNS)
      return Promise.reject(new TallyError('RATE_LIMITED', `At most ${MAX_RUNS} runs at once; wait for one to end.`));
    const promise = work();
    underWay.add(promise);
    return promise.finally(() => underWay.delete(promise));
  }

  async function finished(
    lease: RunLease,
    done: Done[],
    started: number,
    coverage: Drained = { complete: false, asOf: null },
  ): Promise<RollupBackfill> {
    const job = await lease.finish();
    options.onFinished?.(job);
    return {
      jobId: job.id,
      status: job.status,
      period: { startDate: job.period.start, endDate: job.period.end },
      rowsWritten: job.rows,
      durationMs: elapsed(started),
      errors: job.errors,
      coverage,
      periods: done,
    };
  }

  const refresh = () =>
    track(async () => {
      const started = performance.now();
      const coverage = await options.drain();
      const day = today();
      const lease = await db.rollups.begin({ kind: 'refresh', period: { start: day, end: day }, periodsTotal: 0 });
      try {
        const { done, daysTouched } = await computeStale(lease);
        return { ...(await finished(lease, done, started, coverage)), daysTouched };
      } finally {
        await lease.release();
      }
    });

  /** Replaces weeks of an older setting: beside those of this one they would count days twice. */
  async function replaceOtherWeeks(): Promise<void> {
    if (!stopping && (await db.rollups.hasOtherWeeks(weekStart))) await refresh();
  }

  const runAll = async (grain: RollupGrain, startDate: Day, endDate: Day) => {
    if (grain !== 'daily') await replaceOtherWeeks();
    return track(async () => {
      const started = performance.now();
      const coverage = await options.drain();
      const periods = periodsOf(grain, startDate, endDate, weekStart);
      const period = { start: periods[0]!.start, end: periods.at(-1)!.end };
      const lease = await db.rollups.begin({ kind: grain, period, periodsTotal: periods.length });
      try {
        return await finished(lease, await work(lease), started, coverage);
      } finally {
        await lease.release();
      }
    });
  };

  return {
    run(grain, { date, at = now() } = {}) {
      const day = date ?? lastComplete(grain, dayOf(at), weekStart).start;
      return runAll(grain, day, day);
    },

    async backfill(grain, { startDate, endDate }) {
      if (startDate > endDate)
        throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.', {
          details: { startDate, endDate },
        });
      if (countDays(startDate, endDate) > options.maxBackfillDays) {
        const first = { startDate, endDate: addDays(startDate, options.maxBackfillDays - 1) };
        throw new TallyError('DATE_RANGE_TOO_LARGE', `A backfill covers at most ${options.maxBackfillDays} days.`, {
          details: { suggestedRanges: [first, { startDate: addDays(first.endDate, 1), endDate }] },
        });
      }
      return runAll(grain, startDate, endDate);
    },

    refresh,

    async recover() {
      let recovered = 0;
      for (const id of await db.rollups.running()) {
        if (stopping) break;
        await track(async () => {
          const lease = await db.rollups.claim(id);
          if (!lease) return;
          try {
            await finished(lease, await work(lease), performance.now());
            recovered++;
          } finally {
            await lease.release();
          }
        });
      }
      await replaceOtherWeeks();
      return recovered;
    },

    async stop() {
      stopping = true;
      await Promise.allSettled(underWay);
    },
  };
}

function outcome(period: Period, started: number, rows: number, failure?: { period: string; message: string }): Done {
  return {
    status: failure ? 'FAILED' : 'COMPLETED',
    period: { startDate: period.start, endDate: period.end },
    rowsWritten: rows,
    durationMs: elapsed(started),
    errors: failure ? [failure] : [],
  };
}

const elapsed = (started: number): number => Math.round((performance.now() - started) * 100) / 100;

const reasonOf = (error: unknown): string => messageOf(error).slice(0, 500);
