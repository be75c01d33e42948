import { parseEnv, serviceEnv, whole } from '@tally/service';
import { z } from 'zod';

const Schema = z.object({ ...serviceEnv, PORT: whole(4002, 0, 65_535) });
export type Env = z.infer<typeof Schema>;

/** The settings of metrics-engine; throws SettingsError with all problems at once. */
export const readEnv = (env?: NodeJS.ProcessEnv): Env => parseEnv(Schema, env);
