import { parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Schema = z.object({
  ...serviceEnv,
  PORT: whole(4003, 0, 65_535),
  USAGE_INGEST_URL: z.url().default('http://127.0.0.1:4001'),
  /** How long a question waits for what is pending to be flushed before it answers without. */
  FRESHNESS_TIMEOUT_MS: whole(10_000, 10, 120_000),
});
export type Env = z.infer<typeof Schema>;

/** The settings of analytics-api; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
