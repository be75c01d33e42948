import { MerchantId } from '@tally/contracts';
import { isFilesLocation } from '@tally/db';
import { flag, httpAddress, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Settings = z.object({
  ...serviceEnv,
  PORT: whole(4001, 0, 65_535),
  MAX_CALLS_AT_ONCE: whole(256, 1, 1_000_000),
  MAX_CALLS_PER_MINUTE: whole(1_200_000, 1, 1_000_000_000),
  FLUSH_INTERVAL_MS: whole(1_000, 10, 3_600_000),
  FLUSH_PIECE_ENTRIES: whole(10_000, 1, 100_000),
  DERIVE_INTERVAL_MS: whole(2_000, 10, 3_600_000),
  DERIVE_SLICE_EVENTS: whole(60_000, 1, 1_000_000),
  METER_QUARTER_HOURS_DAYS: whole(90, 1, 3_650),
  TRACK_MERGE_MS: whole(5, 0, 1_000),
  JOURNAL_RETENTION_DAYS: whole(35, 7, 3_650),
  ENABLE_FLUSH: flag(true),
  ENABLE_JOB_SCHEDULER: flag(false),
  ENABLE_USAGE_AGGREGATION: flag(true),
  USAGE_AGGREGATION_INTERVAL: whole(3_600_000, 1_000, 86_400_000),
  ARCHIVE_FOLDER: z.string().refine(isFilesLocation, 'Expected an absolute path or s3://bucket/prefix').optional(),
  AUDIT_RETENTION_DAYS: whole(400, 1, 36_500),
  RECONCILE_INTERVAL_MS: whole(3_600_000, 1_000, 86_400_000),
  USAGE_SHARDS: whole(64, 1, 1_024),
  DEDUPLICATION_MEMORY_SHARE: z.coerce.number().min(0).max(0.9).default(0.25),
  REDIS_MEMORY_HIGH_MARK: z.coerce.number().min(0.1).max(1).default(0.9),
  REDIS_WAIT_REPLICAS: whole(0, 0, 10),
  MAX_METRIC_TYPES_PER_DAY: whole(200, 1, 100_000),
  MAX_DIMENSION_VALUES_PER_DAY: whole(10_000, 1, 100_000),
  /** For crash tests: a named point at which the process kills itself. */
  TALLY_FAULT: z.string().optional(),
  /** The analytics-api that answers the queries of sources. */
  ANALYTICS_API_URL: httpAddress().default('http://127.0.0.1:4003'),
  /** The merchant of spans without one whose key is bound to none. */
  OTLP_MERCHANT_FROM: z.enum(['service.name', 'service.namespace']).default('service.name'),
  /** The LiteLLM to pull from; without it nothing is pulled. */
  LITELLM_URL: httpAddress().optional(),
  LITELLM_KEY: z
    .string()
    .regex(/^[\x21-\x7e]{1,512}$/, 'Expected an API key')
    .optional(),
  /** Time between two pulls; 0: only by hand. */
  LITELLM_PULL_INTERVAL_MS: whole(300_000, 0, 86_400_000),
  LITELLM_MERCHANT_FROM: z.enum(['fixed', 'team', 'organization', 'key_alias']).default('fixed'),
  LITELLM_MERCHANT: MerchantId.default('litellm'),
  LITELLM_EVENT_TYPE: z.string().min(1).default('litellm_tokens'),
  LITELLM_DAILY: z.enum(['off', 'check', 'fill']).default('check'),
  LITELLM_LATE_MINUTES: whole(120, 1, 10_080),
  LITELLM_TIMEOUT_MS: whole(30_000, 100, 600_000),
  LITELLM_MAX_BODY_BYTES: whole(32 * 1024 * 1024, 1024, 256 * 1024 * 1024),
});
const Schema = Settings.superRefine((env, ctx) => {
  if (env.LITELLM_URL && !env.LITELLM_KEY)
    ctx.addIssue({
      code: 'custom',
      path: ['LITELLM_KEY'],
      message: 'Expected the key of the LiteLLM at LITELLM_URL',
    });
  if (env.LITELLM_DAILY === 'fill' && env.LITELLM_MERCHANT_FROM === 'organization')
    ctx.addIssue({
      code: 'custom',
      path: ['LITELLM_DAILY'],
      message: 'fill needs another LITELLM_MERCHANT_FROM: daily sums do not name organisations',
    });
});
export type Env = z.infer<typeof Schema>;

/** The settings of usage-ingest; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
