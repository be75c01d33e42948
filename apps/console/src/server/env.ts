import { edgeEnv, httpAddress, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const { BODY_PROGRESS_MS, HOST, MAX_BODY_BYTES, MAX_CONNECTIONS, SHUTDOWN_DELAY_MS } = edgeEnv;
const { LOG_LEVEL, SHUTDOWN_DEADLINE_MS, TALLY_ADMIN_KEY, TALLY_SERVICE_KEY } = serviceEnv;

const Schema = z.object({
  BODY_PROGRESS_MS,
  HOST,
  LOG_LEVEL,
  MAX_BODY_BYTES,
  MAX_CONNECTIONS,
  SHUTDOWN_DEADLINE_MS,
  SHUTDOWN_DELAY_MS,
  TALLY_ADMIN_KEY,
  TALLY_SERVICE_KEY,
  PORT: whole(4000, 0, 65_535),
  USAGE_INGEST_URL: httpAddress().default('http://127.0.0.1:4001'),
  METRICS_ENGINE_URL: httpAddress().default('http://127.0.0.1:4002'),
  ANALYTICS_API_URL: httpAddress().default('http://127.0.0.1:4003'),
  /** The largest forwarded body; the services have limits of their own. */
  MAX_FORWARDED_BYTES: whole(64 * 1024 * 1024, 1024, 1024 * 1024 * 1024),
});
export type Env = z.infer<typeof Schema>;

/** Reads the settings of the console; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
