import { flag, parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Schema = z.object({
  ...serviceEnv,
  PORT: whole(4001, 0, 65_535),
  FLUSH_INTERVAL_MS: whole(1_000, 10, 3_600_000),
  FLUSH_PIECE_ENTRIES: whole(10_000, 1, 100_000),
  TRACK_MERGE_MS: whole(5, 0, 1_000),
  JOURNAL_RETENTION_DAYS: whole(35, 7, 3_650),
  ENABLE_FLUSH: flag(true),
});
export type Env = z.infer<typeof Schema>;

/** The settings of usage-ingest; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
