export { acceptsEncoding } from './accept-encoding.ts';
export { type Audit, createAudit } from './audit.ts';
export {
  type Authenticate,
  type AuthOptions,
  assertMerchant,
  type Caller,
  type Credentials,
  createAuthenticate,
  merchantsFor,
  serviceKeyOf,
} from './auth.ts';
export { type Bodies, createBodies, RequestAborted } from './bodies.ts';
export { type Breaker, createBreaker, StoreUnusableError } from './breaker.ts';
export { answerBrokenRequests, MAX_HEADER_BYTES } from './broken-requests.ts';
export { type CallerLimits, createCallerLimits } from './caller-limits.ts';
export { coalesce, coalesceBy } from './coalesce.ts';
export { credentialsOf, FORWARDED_BY, secretOf } from './credentials.ts';
export { type CsvRow, csvRows } from './csv.ts';
export { decodeCursor, encodeCursor } from './cursor.ts';
export { dropBody } from './drop-body.ts';
export { assertUtf8, type ErrorBody } from './edge.ts';
export { type EdgeEnv, edgeEnv, flag, parseEnv, SettingsError, serviceEnv, whole } from './env.ts';
export { understand } from './errors.ts';
export { NUMBER_MARK, parseExactly, unitsOf } from './exact-json.ts';
export { fetchWithin } from './fetch-within.ts';
export { type App, type AppOptions, createApp } from './http.ts';
export { changeKey, createKeyMirror } from './key-mirror.ts';
export { createLog, type Log } from './log.ts';
export { type Loop, startLoop } from './loop.ts';
export { problemsOf } from './problems.ts';
export { runProcess, settingsOrExit } from './process.ts';
export { queryOf } from './query.ts';
export { createRateLimit, type RateLimit } from './rate-limit.ts';
export { createReadiness, type Readiness } from './readiness.ts';
export { readyJson, textOfReady } from './ready-json.ts';
export { createRedis, mastersOf, type RedisClient, redisReady } from './redis.ts';
export { createReleasers, type Releasers } from './releasers.ts';
export { contractRoutes } from './rest.ts';
export type { Admitted, Route } from './route.ts';
export { isSameOrigin, SESSION_COOKIE, sessionOf } from './session-cookie.ts';
export { storeFaultOf } from './store-errors.ts';
export { startTelemetry } from './telemetry.ts';
export { activeRequest, recordStep } from './tracing.ts';
export { type Call, type Context, type Handlers, serveContract } from './trpc.ts';
export { VERSION } from './version.ts';
export { within } from './within.ts';
