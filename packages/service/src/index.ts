export {
  type Authenticate,
  type AuthOptions,
  assertMerchant,
  type Caller,
  type Credentials,
  createAuthenticate,
  merchantsFor,
} from './auth.ts';
export { decodeCursor, encodeCursor } from './cursor.ts';
export { flag, parseEnv, SettingsError, serviceEnv, whole } from './env.ts';
export { fetchWithin } from './fetch-within.ts';
export { type App, type AppOptions, createApp, credentialsOf, type Health, listen, problem } from './http.ts';
export { createLog, type Log } from './log.ts';
export { type Loop, startLoop } from './loop.ts';
export { problemsOf } from './problems.ts';
export { runProcess, settingsOrExit } from './process.ts';
export { queryOf } from './query.ts';
export { createRateLimit, type RateLimit } from './rate-limit.ts';
export { createRedis, isRedisReady, mastersOf, type RedisClient, redisReady } from './redis.ts';
export { createReleasers, type Releasers } from './releasers.ts';
export { isStoreAway } from './store-away.ts';
export { type Call, type Context, type Handlers, serveContract, understand } from './trpc.ts';
