import { type Day, dayOf, type RollupBackfill, TallyError } from '@tally/contracts';
import type { Log, RedisClient } from '@tally/service';
import { type Job, Queue, Worker } from 'bullmq';
import type { Rollups } from './rollups/rollups.ts';

export type ScheduleOptions = {
  /** A connection of its own: blocking commands hold it, and it waits for a Redis that is away. */
  connect(): RedisClient;
  rollups: Rollups;
  /** Removes log rows of runs that ended before a day, and saved realtime metrics that expired; returns how many. */
  prune(before: Day): Promise<number>;
  logRetentionDays: number;
  attempts: number;
  backoffMs: number;
  log: Log;
};

export type ScheduledJob = { name: string; pattern: string; next: string | null };
export type FailedJob = { id: string; name: string; attempts: number; failedAt: string | null; error: string };

export type Schedule = {
  /** Makes the schedules, once however many instances do, and works on what they make. */
  start(): Promise<void>;
  list(): Promise<ScheduledJob[]>;
  /** Jobs that failed for good, newest first. */
  failed(limit: number): Promise<FailedJob[]>;
  /** Puts a failed job back; NOT_FOUND for any other. */
  retry(id: string): Promise<void>;
  /** Does now what a schedule does at its time. */
  perform(name: JobName, scheduledAt: number): Promise<unknown>;
  /** Lets the job under way end, and closes. */
  stop(): Promise<void>;
};

const QUEUE = 'metrics-engine';
/** The hash tag keeps the queue in one slot of a Redis Cluster. */
const PREFIX = '{bull}';
const DAY_MS = 86_400_000;
const KEPT_COMPLETED = 100;

/** When what runs, in UTC. */
export const PATTERNS = {
  daily: '0 2 * * *',
  weekly: '0 4 * * 1',
  monthly: '0 5 2 * *',
  refresh: '30 * * * *',
  cleanup: '15 1 * * *',
} as const;
export type JobName = keyof typeof PATTERNS;

/** Runs rollups at their times. BullMQ makes one job per time; a failed one is retried with growing pauses, then kept. */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { rollups, log } = options;
  let queue: Queue | undefined;
  let worker: Worker | undefined;
  const connections: RedisClient[] = [];

  const connection = () => {
    const client = options.connect();
    connections.push(client);
    return client;
  };
  const opened = () => {
    queue ??= new Queue(QUEUE, { connection: connection(), prefix: PREFIX });
    return queue;
  };

  async function perform(name: JobName, scheduledAt: number): Promise<unknown> {
    if (name === 'cleanup') return options.prune(dayOf(scheduledAt - options.logRetentionDays * DAY_MS));
    await rollups.recover();
    const runs: RollupBackfill[] = [await rollups.refresh()];
    // The period is that of the schedule's time, so that a job that waited computes what it was made for.
    if (name === 'daily') runs.push(await rollups.run('daily', dayOf(scheduledAt - DAY_MS)));
    if (name === 'weekly') runs.push(await rollups.run('weekly', dayOf(scheduledAt - 7 * DAY_MS)));
    if (name === 'monthly') runs.push(await rollups.run('monthly', dayOf(scheduledAt - 2 * DAY_MS)));
    const unsound = runs.find((run) => run.status !== 'COMPLETED');
    if (unsound) throw new Error(`run ${unsound.jobId} ended ${unsound.status}: ${unsound.errors[0]?.message ?? ''}`);
    return runs.map(({ jobId, rowsWritten }) => ({ jobId, rowsWritten }));
  }

  return {
    perform,

    async start() {
      for (const [name, pattern] of Object.entries(PATTERNS)) {
        await opened().upsertJobScheduler(
          name,
          { pattern, tz: 'UTC' },
          {
            name,
            opts: {
              attempts: options.attempts,
              backoff: { type: 'exponential', delay: options.backoffMs },
              removeOnComplete: { count: KEPT_COMPLETED },
              removeOnFail: false,
            },
          },
        );
      }
      worker = new Worker(
        QUEUE,
        (job: Job) => perform(job.name as JobName, job.opts.prevMillis ?? job.timestamp + (job.opts.delay ?? 0)),
        { connection: connection(), prefix: PREFIX, concurrency: 1 },
      );
      worker.on('failed', (job, error) =>
        log.error({ err: error, job: job?.name, attempts: job?.attemptsMade }, 'job failed'),
      );
      worker.on('error', (error) => log.warn({ err: error }, 'scheduler'));
    },

    async list() {
      const schedulers = await opened().getJobSchedulers();
      return schedulers.map(({ key, pattern, next }) => ({
        name: key,
        pattern: pattern ?? '',
        next: next === undefined ? null : new Date(next).toISOString(),
      }));
    },

    async failed(limit) {
      const jobs = await opened().getFailed(0, limit - 1);
      return jobs.map((job) => ({
        id: job.id ?? '',
        name: job.name,
        attempts: job.attemptsMade,
        failedAt: job.finishedOn === undefined ? null : new Date(job.finishedOn).toISOString(),
        error: (job.failedReason ?? '').slice(0, 500),
      }));
    },

    async retry(id) {
      const job = await opened().getJob(id);
      if (!job || !(await job.isFailed())) throw new TallyError('NOT_FOUND', `There is no failed job ${id}.`);
      await job.retry('failed');
    },

    async stop() {
      await worker?.close();
      await queue?.close();
      for (const client of connections) client.disconnect();
    },
  };
}
