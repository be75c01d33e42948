import { MerchantId } from '@tally/contracts';
import { flag, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Schema = z
  .object({
    ...serviceEnv,
    PORT: whole(4003, 0, 65_535),
    USAGE_INGEST_URL: z.url().default('http://127.0.0.1:4001'),
    /** How long a question waits for what is pending to be flushed before it answers without. */
    FRESHNESS_TIMEOUT_MS: whole(10_000, 10, 120_000),
    /** The longest range of a question, in days. */
    ANALYTICS_MAX_DAYS: whole(1_100, 1, 40_000),
    /** Rows of rollups that a query may read, as its plan estimates them. */
    ANALYTICS_MAX_ROWS: whole(20_000_000, 1, 1_000_000_000),
    /** The longest range of an export, in days. */
    EXPORT_MAX_DAYS: whole(1_100, 1, 40_000),
    /** Exports that are written at once, each over a connection of its own; at most POSTGRES_POOL_SIZE less 2. */
    EXPORTS_AT_ONCE: whole(3, 1, 999),
    /** How long the reader of an export may take nothing before it is ended. */
    EXPORT_STALL_MS: whole(30_000, 100, 30_000),
    /** Room on disk, in MB, for exports that wait for their readers, in the system's folder for temporary files. */
    EXPORT_SPOOL_MB: whole(2_048, 1, 1_048_576),
    ENABLE_ANALYTICS_CACHE: flag(true),
    /** Calls per caller and minute. */
    ADMIN_ANALYTICS_RATE_LIMIT: whole(600, 1, 1_000_000),
    ADMIN_EXPORT_RATE_LIMIT: whole(30, 1, 1_000_000),
    ADMIN_CACHE_REBUILD_LIMIT: whole(5, 1, 1_000_000),
    /** LiteLLM to pull from; without it nothing is pulled. */
    LITELLM_URL: z.url({ protocol: /^https?$/ }).optional(),
    LITELLM_KEY: z
      .string()
      .regex(/^[\x21-\x7e]{1,512}$/, 'Expected an API key')
      .optional(),
    /** Time between two pulls; 0: only by hand. */
    LITELLM_PULL_INTERVAL_MS: whole(300_000, 0, 86_400_000),
    LITELLM_MERCHANT_FROM: z.enum(['fixed', 'team', 'organization', 'key_alias']).default('fixed'),
    LITELLM_MERCHANT: MerchantId.default('litellm'),
    /** Retired: accepted with a warning until the next release. */
    LITELLM_ID_FROM: z.string().optional(),
    LITELLM_DAILY: z.enum(['off', 'check', 'fill']).default('check'),
    LITELLM_LATE_MINUTES: whole(120, 1, 10_080),
    LITELLM_TIMEOUT_MS: whole(30_000, 100, 600_000),
    LITELLM_MAX_BODY_BYTES: whole(32 * 1024 * 1024, 1024, 256 * 1024 * 1024),
  })
  .superRefine((env, ctx) => {
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

/** The settings of analytics-api; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
