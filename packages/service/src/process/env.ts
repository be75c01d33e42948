import { z } from 'zod';
import { UNKNOWN_KEYS_PER_MINUTE } from '../callers/auth.ts';
import { placeOf } from '../stores/redis.ts';

/** Thrown at start with every invalid setting at once. Never shows values, which may be secrets. */
export class SettingsError extends Error {
  constructor(problems: readonly string[]) {
    super(`The settings are not usable:\n${problems.map((problem) => `  - ${problem}`).join('\n')}`);
    this.name = 'SettingsError';
  }
}

/** Parses settings once; an empty variable counts as unset. */
export function parseEnv<Schema extends z.ZodObject>(
  schema: Schema,
  env: NodeJS.ProcessEnv = process.env,
): z.output<Schema> {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = schema.safeParse(set);
  const problems = (parsed.error?.issues ?? []).map((issue) => {
    const name = issue.path.join('.');
    const isMissing = issue.code !== 'custom' && set[name] === undefined;
    return isMissing ? `${name} is not set` : `${name}: ${issue.message}`;
  });
  if (KEYS.every((name) => name in schema.shape && set[name] === undefined)) problems.push(NO_KEYS);
  if (!parsed.success || problems.length > 0) throw new SettingsError(problems);
  return parsed.data;
}

const KEYS = ['TALLY_ADMIN_KEY', 'TALLY_SERVICE_KEY'];
/** Without either key, a service would start, look healthy, and refuse all administration and the other services. */
const NO_KEYS =
  'TALLY_ADMIN_KEY and TALLY_SERVICE_KEY are not set: set at least one. TALLY_ADMIN_KEY is the API key of the admin; ' +
  'TALLY_SERVICE_KEY, the same for all services, is what they send each other (default: derived from the admin key). ' +
  'A key has 16 characters or more: `openssl rand -base64 32`. `npm start` generates both.';

/** Accepts `true`, `false`, `1` and `0`. */
export const flag = (fallback: boolean) =>
  z
    .enum(['true', 'false', '1', '0'])
    .default(fallback ? 'true' : 'false')
    .transform((text) => text === 'true' || text === '1');

/** Accepts a whole number within bounds. */
export const whole = (fallback: number, min: number, max: number) => {
  const expected = `Expected a whole number from ${min} to ${max}`;
  const isWithin = (value: number) => Number.isInteger(value) && value >= min && value <= max;
  return z.coerce.number(expected).refine(isWithin, expected).default(fallback);
};

/** Accepts the address of an HTTP server. */
export const httpAddress = () => z.url({ protocol: /^https?$/, error: 'Expected http://… or https://…' });

const ENCODE = 'Percent-encode special characters of the password: `#` is %23, `/` is %2F, `@` is %40.';

/** A host may be missing: the driver then takes a parameter of the address, or its default. */
const isPostgresAddress = (url: string) => URL.canParse(url.replace('@/', '@host/'));

/** Settings of the HTTP edge, for every service. */
export const edgeEnv = {
  HOST: z.string().default('127.0.0.1'),
  MAX_BODY_BYTES: whole(8 * 1024 * 1024, 1024, 256 * 1024 * 1024),
  /** Bytes of all request bodies at once, inflated; one caller may have a quarter. */
  MAX_HELD_BODY_BYTES: whole(128 * 1024 * 1024, 1024, 64 * 1024 * 1024 * 1024),
  /** The time in which a body must make a KiB of progress. */
  BODY_PROGRESS_MS: whole(5_000, 100, 60_000),
  /** A reader that takes nothing of its answer for this long is disconnected. */
  STALLED_READER_MS: whole(30_000, 100, 600_000),
  MAX_CONNECTIONS: whole(2_048, 1, 1_000_000),
  /** Calls of one caller in one process, concurrently and per minute. */
  MAX_CALLS_AT_ONCE: whole(64, 1, 1_000_000),
  MAX_CALLS_PER_MINUTE: whole(120_000, 1, 1_000_000_000),
  MAX_BATCH_CALLS: whole(20, 1, 1_000),
  /** How long a stopping service reports it before it closes its port: the time that load balancers need to notice. */
  SHUTDOWN_DELAY_MS: whole(process.env.NODE_ENV === 'production' ? 3_000 : 0, 0, 60_000),
};
export type EdgeEnv = z.output<z.ZodObject<typeof edgeEnv>>;

/** Settings that every service needs. */
export const serviceEnv = {
  ...edgeEnv,
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'Expected postgres://…')
    .refine(isPostgresAddress, `Expected postgres://user:password@host:port/database. ${ENCODE}`),
  POSTGRES_POOL_SIZE: whole(10, 1, 1_000),
  REDIS_URL: z.string().superRefine((url, context) => {
    try {
      placeOf(url);
    } catch (error) {
      const { message } = error as Error;
      context.addIssue({ code: 'custom', message: message === 'Invalid URL' ? `${message}. ${ENCODE}` : message });
    }
  }),
  TALLY_ADMIN_KEY: z.string().min(16, 'Expected at least 16 characters').optional(),
  TALLY_SERVICE_KEY: z.string().min(16, 'Expected at least 16 characters').optional(),
  UNKNOWN_KEYS_PER_MINUTE: whole(UNKNOWN_KEYS_PER_MINUTE, 1, 1_000_000),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
  SHUTDOWN_DEADLINE_MS: whole(15_000, 100, 600_000),
  OTEL_EXPORTER_OTLP_ENDPOINT: httpAddress().optional(),
};
