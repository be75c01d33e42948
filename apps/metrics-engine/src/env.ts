import { flag, httpAddress, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Settings = z.object({
  ...serviceEnv,
  PORT: whole(4002, 0, 65_535),
  MAX_CALLS_AT_ONCE: whole(128, 1, 1_000_000),
  /**
   * ISO weekday that weeks begin with: 1 Monday … 7 Sunday. Weeks of an older setting are replaced at the next start.
   */
  WEEK_START: whole(1, 1, 7),
  /** The longest range of one backfill, in days. */
  BACKFILL_MAX_DAYS: whole(3_660, 1, 36_600),
  /** Milliseconds after which Postgres cancels the computation of a period. */
  ROLLUP_TIMEOUT_MS: whole(600_000, 1_000, 3_600_000),
  /** Planner costs from which a custom metric is medium, is high, and is refused. */
  CUSTOM_COST_MEDIUM: whole(10_000, 1, 1_000_000_000),
  CUSTOM_COST_HIGH: whole(500_000, 1, 1_000_000_000),
  CUSTOM_COST_LIMIT: whole(10_000_000, 1, 1_000_000_000),
  /** Milliseconds after which Postgres cancels a custom metric. */
  CUSTOM_TIMEOUT_MS: whole(15_000, 10, 600_000),
  /** Groups in one answer of a custom metric, and days it may cover. */
  CUSTOM_MAX_ROWS: whole(1_000, 1, 100_000),
  CUSTOM_MAX_DAYS: whole(1_100, 1, 36_600),
  /** Formulas that run concurrently, each on its own connection beside POSTGRES_POOL_SIZE, and those of one caller. */
  CUSTOM_POOL_SIZE: whole(3, 1, 100),
  CUSTOM_MAX_PER_CALLER: whole(2, 1, 100),
  /** Milliseconds that an answer waits for usage-ingest to flush pending events. */
  DRAIN_TIMEOUT_MS: whole(10_000, 10, 600_000),
  /** True if this instance runs scheduled jobs; any number may. */
  ENABLE_METRICS_SCHEDULER: flag(true),
  /** Addresses of the services that jobs, metrics and runs call. */
  USAGE_INGEST_URL: httpAddress().default('http://127.0.0.1:4001'),
  ANALYTICS_API_URL: httpAddress().default('http://127.0.0.1:4003'),
  /** Milliseconds that one call of a job may take. */
  JOB_CALL_TIMEOUT_MS: whole(600_000, 1_000, 3_600_000),
  JOB_ATTEMPTS: whole(5, 1, 100),
  /** Pause before the second attempt; it doubles with each. */
  JOB_BACKOFF_MS: whole(30_000, 10, 3_600_000),
  /** Days that the log of runs is kept. */
  JOBS_LOG_RETENTION_DAYS: whole(400, 1, 36_600),
  /** True if webhooks may go to addresses that are not public. */
  WEBHOOK_ALLOW_PRIVATE: flag(false),
  /** Realtime metrics: names per merchant, series per name, seconds they are kept after their last point. */
  REALTIME_MAX_NAMES: whole(1_000, 1, 1_000_000),
  REALTIME_MAX_SERIES: whole(1_000, 1, 1_000_000),
  REALTIME_TTL_SECONDS: whole(604_800, 60, 31_536_000),
  /** Milliseconds between two saves of realtime metrics to Postgres: the data lost with Redis. */
  REALTIME_SAVE_MS: whole(60_000, 100, 3_600_000),
  /** Milliseconds between two polls of a `realtime.watch`. */
  REALTIME_WATCH_MS: whole(500, 10, 60_000),
  /** Concurrent watchers of one instance. */
  REALTIME_MAX_WATCHERS: whole(1_000, 1, 1_000_000),
  /** Concurrent watchers of one key on one instance. */
  REALTIME_MAX_WATCHERS_PER_KEY: whole(100, 1, 1_000_000),
});

/** Settings that contradict each other stop the start, with both names. */
const Schema = Settings.refine((env) => env.CUSTOM_COST_MEDIUM <= env.CUSTOM_COST_HIGH, {
  path: ['CUSTOM_COST_HIGH'],
  error: 'Expected at least CUSTOM_COST_MEDIUM',
}).refine((env) => env.CUSTOM_COST_HIGH <= env.CUSTOM_COST_LIMIT, {
  path: ['CUSTOM_COST_LIMIT'],
  error: 'Expected at least CUSTOM_COST_HIGH',
});
export type Env = z.infer<typeof Schema>;

/** The settings of metrics-engine; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
