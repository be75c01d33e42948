export { acceptsEncoding } from './accept-encoding.ts';
export { type Audit, createAudit } from './callers/audit.ts';
export {
  type Authenticate,
  type AuthOptions,
  assertMerchant,
  type Caller,
  type Credentials,
  createAuthenticate,
  merchantsFor,
  serviceKeyOf,
} from './callers/auth.ts';
export { credentialsOf, FORWARDED_BY, secretOf } from './callers/credentials.ts';
export { createFairQueue, type FairQueue } from './callers/fair-queue.ts';
export { changeKey, createKeyMirror } from './callers/key-mirror.ts';
export { isHttps, isSameOrigin, SESSION_COOKIE, sessionOf } from './callers/session-cookie.ts';
export { coalesce, coalesceBy } from './coalesce.ts';
export { type CsvRow, csvRows, repeatedColumn } from './csv.ts';
export { decodeCursor, encodeCursor } from './cursor.ts';
export { type Bodies, createBodies, RequestAborted } from './edge/bodies.ts';
export { type CallerLimits, createCallerLimits } from './edge/caller-limits.ts';
export { handleRequests, MAX_HEADER_BYTES } from './edge/connections.ts';
export { dropBody, isSending } from './edge/drop-body.ts';
export { assertUtf8, type ErrorBody } from './edge/edge.ts';
export { type App, type AppOptions, createApp } from './edge/http.ts';
export { createJsonCounter } from './edge/json-limits.ts';
export { queryOf } from './edge/query.ts';
export { readyJson, textOfReady } from './edge/ready-json.ts';
export { contractRoutes } from './edge/rest.ts';
export type { Admitted, Route } from './edge/route.ts';
export { type Call, type Context, type Handlers, serveContract } from './edge/trpc.ts';
export { understand } from './errors/errors.ts';
export { problemsOf } from './errors/problems.ts';
export { storeFaultOf } from './errors/store-errors.ts';
export { exactEntries, NUMBER_MARK, parseExactly, unitsOf } from './exact-json.ts';
export { fetchWithin } from './fetch-within.ts';
export { createFlushedUntil, type FlushedUntil } from './flushed-until.ts';
export { groupBy } from './group-by.ts';
export { piecesOf } from './pieces.ts';
export { type EdgeEnv, edgeEnv, flag, httpAddress, parseEnv, SettingsError, serviceEnv, whole } from './process/env.ts';
export { createLog, failureLog, type Log } from './process/log.ts';
export { type Loop, startLoop } from './process/loop.ts';
export { collectProcess } from './process/metrics.ts';
export { runProcess, settingsOrExit } from './process/process.ts';
export { createReleasers, type Releasers } from './process/releasers.ts';
export { startTelemetry } from './process/telemetry.ts';
export { activeRequest, recordStep } from './process/tracing.ts';
export { VERSION } from './process/version.ts';
export { type Breaker, createBreaker, StoreUnusableError } from './stores/breaker.ts';
export { createRateLimit, type RateLimit } from './stores/rate-limit.ts';
export { createReadiness, type Readiness } from './stores/readiness.ts';
export { CACHED_ANSWERS, createRedis, mastersOf, type RedisClient, redisReady, removeKeys } from './stores/redis.ts';
export { within } from './within.ts';
