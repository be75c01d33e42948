import { DAY_MS, type Day, dayOf, type JobName, type RollupBackfill, TallyError } from '@tally/contracts';
import {
  decodeCursor,
  encodeCursor,
  failureLog,
  type Log,
  type RedisClient,
  redisReady,
  startLoop,
} from '@tally/service';
import { type Job, Queue, Worker } from 'bullmq';
import { z } from 'zod';
import type { Rollups } from './rollups/rollups.ts';

export type ScheduleOptions = {
  /** Opens a connection for the queue; a `patient` one waits while Redis is unavailable, and may block. */
  connect(options: { patient: boolean }): RedisClient;
  rollups: Rollups;
  /** Jobs beside rollups. Each throws on failure, and is retried. */
  work: {
    /** Runs the reconciliation of usage-ingest, which corrects running totals. */
    reconcile(): Promise<unknown>;
    /** Rebuilds day snapshots, and warms the cache, up to a day. */
    afterDaily(yesterday: Day): Promise<unknown>;
    /** Compares realtime metrics with their sources. */
    realtime(): Promise<unknown>;
    /** Removes old log rows, and copies of realtime metrics that expired. */
    cleanup(): Promise<unknown>;
  };
  attempts: number;
  backoffMs: number;
  /** Cron patterns in UTC; a job without one is not scheduled. */
  patterns?: Partial<Record<JobName, string>>;
  log: Log;
  onEnded(job: string, result: 'completed' | 'failed', durationMs: number): void;
  /** Called regularly with the number of failed jobs that wait to be retried by hand. */
  onFailedJobs(count: number): void;
};

export type ScheduledJob = { name: string; pattern: string; next: string | null };
export type FailedJob = { id: string; name: string; attempts: number; failedAt: string | null; error: string };

export type Schedule = {
  /** Runs scheduled jobs, and creates the schedules, once for all instances; does not wait for Redis. */
  start(): void;
  list(): Promise<ScheduledJob[]>;
  /** Returns a page of jobs that failed for good, newest first. */
  failed(page: {
    limit: number;
    cursor?: string | undefined;
  }): Promise<{ rows: FailedJob[]; nextCursor: string | null }>;
  /** Queues a failed job again; throws NOT_FOUND for any other. */
  retry(id: string): Promise<void>;
  /** Queues a job now; returns its id. */
  run(name: JobName): Promise<string>;
  /** Runs now what a schedule runs at its time. */
  perform(name: JobName, scheduledAt: number): Promise<unknown>;
  /** Waits for the running job, and closes. */
  stop(): Promise<void>;
};

/** The time at which a job failed, and its id. */
const FailedPlace = z.tuple([z.string(), z.string()]);
const QUEUE = 'metrics-engine';
/** The hash tag keeps the queue in one slot of a Redis Cluster. */
const PREFIX = '{bull}';
const CONNECT_MS = 2_000;
const KEPT_COMPLETED = 100;
const KEPT_FAILED = 1_000;
const ENSURE_MS = 30_000;
/** A job of an engine that dies is queued again, at most this many times. */
const MAX_STALLED = 10;

/** Cron patterns of the jobs, in UTC. */
export const PATTERNS = {
  reconcile: '0 2 * * *',
  daily: '0 2 * * *',
  afterDaily: '0 3 * * *',
  weekly: '0 4 * * 1',
  monthly: '0 5 2 * *',
  realtime: '0 * * * *',
  refresh: '30 * * * *',
  cleanup: '15 1 * * *',
} as const satisfies Record<JobName, string>;

/**
 * Runs jobs at their times. BullMQ creates one job per time; a failed one is retried with growing pauses, then kept.
 */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { rollups, work, log, patterns = PATTERNS } = options;
  let opened: { queue: Queue; client: RedisClient } | undefined;
  let worker: { worker: Worker; client: RedisClient } | undefined;
  let ensuring: { stop(): Promise<void> } | undefined;

  const jobOptions = {
    attempts: options.attempts,
    backoff: { type: 'exponential', delay: options.backoffMs },
    removeOnComplete: { count: KEPT_COMPLETED },
    removeOnFail: { count: KEPT_FAILED },
  };

  /** Calls the queue; throws UNAVAILABLE at once while Redis is unavailable. */
  async function ask<T>(question: (queue: Queue) => Promise<T>): Promise<T> {
    if (!opened) {
      const client = options.connect({ patient: false });
      opened = { client, queue: new Queue(QUEUE, { connection: client, prefix: PREFIX }) };
      opened.queue.on('error', failureLog(log, 'scheduler', { level: 'warn' }));
    }
    const { client, queue } = opened;
    try {
      await redisReady(client, CONNECT_MS);
      return await question(queue);
    } catch (error) {
      if (error instanceof TallyError) throw error;
      throw new TallyError('UNAVAILABLE', 'Redis does not answer.', { cause: error });
    }
  }

  /** Creates missing schedules. Replacing one would drop a job that is due and has not begun. */
  async function ensure(): Promise<void> {
    await ask(async (queue) => {
      for (const [name, pattern] of Object.entries(patterns)) {
        const known = await queue.getJobScheduler(name);
        if (known?.pattern === pattern) continue;
        await queue.upsertJobScheduler(name, { pattern, tz: 'UTC' }, { name, opts: jobOptions });
      }
      options.onFailedJobs(await queue.getFailedCount());
    });
  }

  async function perform(name: JobName, scheduledAt: number): Promise<unknown> {
    if (name === 'reconcile') return work.reconcile();
    if (name === 'realtime') return work.realtime();
    if (name === 'afterDaily') return work.afterDaily(dayOf(scheduledAt - DAY_MS));
    if (name === 'cleanup') return work.cleanup();
    await rollups.recover();
    const runs: RollupBackfill[] = [await rollups.refresh()];
    // The last period complete at the scheduled time, so that a delayed job computes the period it was created for.
    if (name !== 'refresh') runs.push(await rollups.run(name, { at: scheduledAt }));
    const unsound = runs.find((run) => run.status !== 'COMPLETED');
    if (unsound) throw new Error(`run ${unsound.jobId} ended ${unsound.status}: ${unsound.errors[0]?.message ?? ''}`);
    return runs.map(({ jobId, rowsWritten }) => ({ jobId, rowsWritten }));
  }

  async function timed(job: Job): Promise<unknown> {
    const started = performance.now();
    const ended = (result: 'completed' | 'failed') => options.onEnded(job.name, result, performance.now() - started);
    try {
      const result = await perform(job.name as JobName, job.opts.prevMillis ?? job.timestamp + (job.opts.delay ?? 0));
      ended('completed');
      return result;
    } catch (error) {
      ended('failed');
      throw error;
    }
  }

  return {
    perform,

    start() {
      const client = options.connect({ patient: true });
      worker = {
        client,
        worker: new Worker(QUEUE, timed, {
          connection: client,
          prefix: PREFIX,
          concurrency: 1,
          maxStalledCount: MAX_STALLED,
        }),
      };
      worker.worker.on('failed', (job, error) =>
        log.error({ err: error, job: job?.name, attempts: job?.attemptsMade }, 'job failed'),
      );
      worker.worker.on('error', failureLog(log, 'scheduler', { level: 'warn' }));
      // Repeated: a Redis that lost its data has lost the schedules too.
      ensuring = startLoop(ENSURE_MS, ensure, failureLog(log, 'schedules could not be made', { level: 'warn' }));
    },

    list: () =>
      ask(async (queue) =>
        (await queue.getJobSchedulers()).map(({ key, pattern, next }) => ({
          name: key,
          pattern: pattern ?? '',
          next: next === undefined ? null : new Date(next).toISOString(),
        })),
      ),

    failed: ({ limit, cursor }) =>
      ask(async (queue) => {
        const after = cursor === undefined ? undefined : decodeCursor(cursor, {}, FailedPlace);
        // A job that is retried moves the ranks of those behind it, so a page does not begin at a rank.
        const jobs = (await queue.getFailed(0, after ? KEPT_FAILED : limit - 1)).map((job) => ({
          id: job.id ?? '',
          name: job.name,
          attempts: job.attemptsMade,
          failedAt: job.finishedOn === undefined ? null : new Date(job.finishedOn).toISOString(),
          error: (job.failedReason ?? '').slice(0, 500),
        }));
        const isBehind = ({ failedAt, id }: FailedJob, [at, last]: [string, string]) =>
          (failedAt ?? '') < at || (failedAt === at && id < last);
        const rows = after ? jobs.filter((job) => isBehind(job, after)).slice(0, limit) : jobs;
        const end = rows.length === limit ? rows.at(-1) : undefined;
        return { rows, nextCursor: end ? encodeCursor([end.failedAt ?? '', end.id], {}) : null };
      }),

    run: (name) => ask(async (queue) => (await queue.add(name, {}, jobOptions)).id ?? ''),

    retry: (id) =>
      ask(async (queue) => {
        // Searched among failed jobs first: an id may be the name of another key of the queue.
        const failed = await queue.getRanges(['failed'], 0, KEPT_FAILED);
        const job = failed.includes(id) ? await queue.getJob(id) : undefined;
        if (!job) throw new TallyError('NOT_FOUND', `There is no failed job ${id}.`);
        await job.retry('failed');
      }),

    async stop() {
      // Signalled at once, so that no job is begun; the loop may be waiting for Redis.
      const closed = worker && close(worker.client, worker.worker);
      await ensuring?.stop();
      await closed;
      if (opened) await close(opened.client, opened.queue);
    },
  };
}

/** Closes a queue or a worker, then its connection. Does not wait for BullMQ while Redis is unavailable. */
async function close(client: RedisClient, user: Queue | Worker): Promise<void> {
  const closed = user.close().catch(() => {});
  if (client.status === 'ready') await closed;
  client.disconnect();
}
