import { flag, httpAddress, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Schema = z.object({
  ...serviceEnv,
  /** A query reads over two connections: with one it would wait for itself. */
  POSTGRES_POOL_SIZE: whole(10, 2, 1_000),
  PORT: whole(4003, 0, 65_535),
  USAGE_INGEST_URL: httpAddress().default('http://127.0.0.1:4001'),
  /** How long a query waits for the flush of pending events before it answers without them. */
  FRESHNESS_TIMEOUT_MS: whole(10_000, 10, 120_000),
  /** The longest range of a query, in days. */
  ANALYTICS_MAX_DAYS: whole(1_100, 1, 40_000),
  /** Rows of rollups that a query may read, as estimated by its plan. */
  ANALYTICS_MAX_ROWS: whole(20_000_000, 1, 1_000_000_000),
  /** The longest range of an export, in days. */
  EXPORT_MAX_DAYS: whole(1_100, 1, 40_000),
  /** Exports written concurrently, each over its own connection; at most POSTGRES_POOL_SIZE less 2. */
  EXPORTS_AT_ONCE: whole(3, 1, 999),
  /** How long the reader of an export may stall before it is disconnected. */
  EXPORT_STALL_MS: whole(30_000, 100, 30_000),
  /** Disk space, in MB, for exports that wait for their readers, in the system's folder for temporary files. */
  EXPORT_SPOOL_MB: whole(2_048, 1, 1_048_576),
  ENABLE_ANALYTICS_CACHE: flag(true),
  /** Calls per caller and minute. */
  ADMIN_ANALYTICS_RATE_LIMIT: whole(600, 1, 1_000_000),
  ADMIN_EXPORT_RATE_LIMIT: whole(30, 1, 1_000_000),
  ADMIN_CACHE_REBUILD_LIMIT: whole(5, 1, 1_000_000),
  /** The largest body forwarded to usage-ingest at the former addresses of LiteLLM's callbacks. */
  LITELLM_MAX_BODY_BYTES: whole(32 * 1024 * 1024, 1024, 256 * 1024 * 1024),
});
export type Env = z.infer<typeof Schema>;

/** The settings of analytics-api; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
