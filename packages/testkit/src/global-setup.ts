import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Gives a vitest run a real Postgres and Redis: those of `npm test` if it started them, else its own until the run
 * ends.
 */
export default async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env.TEST_DATABASE_URL && process.env.TEST_REDIS_URL) return undefined;
  const { startServers } = await import('../../../infra/local/servers.mjs');
  const home = await mkdtemp(join(tmpdir(), 'tally-test-'));
  const servers = await startServers({ home, durable: false });
  process.env.TEST_DATABASE_URL = servers.databaseUrl;
  process.env.TEST_REDIS_URL = servers.redisUrl;
  return async () => {
    await servers.remove();
    await rm(home, { recursive: true, force: true });
  };
}
