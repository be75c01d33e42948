import { z } from 'zod';
import { UNKNOWN_KEYS_PER_MINUTE } from './auth.ts';

/** Thrown at start with every problem of the settings at once; values are never shown, they may be secrets. */
export class SettingsError extends Error {
  constructor(problems: readonly string[]) {
    super(`The settings are not usable:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'SettingsError';
  }
}

/** Parses settings once; an empty variable is an unset one. */
export function parseEnv<Schema extends z.ZodObject>(
  schema: Schema,
  env: NodeJS.ProcessEnv = process.env,
): z.output<Schema> {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = schema.safeParse(set);
  if (parsed.success) return parsed.data;
  throw new SettingsError(
    parsed.error.issues.map((issue) => {
      const name = issue.path.join('.');
      return set[name] === undefined ? `${name} is not set` : `${name}: ${issue.message}`;
    }),
  );
}

/** `true`, `false`, `1`, `0`. */
export const flag = (fallback: boolean) =>
  z
    .enum(['true', 'false', '1', '0'])
    .default(fallback ? 'true' : 'false')
    .transform((text) => text === 'true' || text === '1');

/** A whole number within bounds. */
export const whole = (fallback: number, min: number, max: number) =>
  z.coerce.number().int().min(min).max(max).default(fallback);

/** What every service needs. */
export const serviceEnv = {
  HOST: z.string().default('127.0.0.1'),
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'Expected postgres://…'),
  POSTGRES_POOL_SIZE: whole(10, 1, 1_000),
  REDIS_URL: z.string().regex(/^rediss?:\/\//, 'Expected redis://… or rediss://…'),
  TALLY_ADMIN_KEY: z.string().min(16, 'Expected at least 16 characters').optional(),
  TALLY_SERVICE_KEY: z.string().min(16, 'Expected at least 16 characters').optional(),
  UNKNOWN_KEYS_PER_MINUTE: whole(UNKNOWN_KEYS_PER_MINUTE, 1, 1_000_000),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
  MAX_BODY_BYTES: whole(8 * 1024 * 1024, 1024, 256 * 1024 * 1024),
  SHUTDOWN_DEADLINE_MS: whole(15_000, 100, 600_000),
};
