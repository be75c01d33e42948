import { migrate } from '@tally/db';
import { freePort, freshDatabase, freshRedis, type ServiceProcess, startServiceProcess } from '@tally/testkit';

export type Services = { ingest: ServiceProcess; analytics: ServiceProcess; stop(): Promise<void> };

/** Starts usage-ingest and analytics-api on stores of their own, each with the address of the other. */
export async function startServices(settings: Record<string, string>): Promise<Services> {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const env = { ...settings, DATABASE_URL: database.url, REDIS_URL: redis.url };
  const port = String(await freePort());
  const ingest = await startServiceProcess('usage-ingest', { ...env, ANALYTICS_API_URL: `http://127.0.0.1:${port}` });
  const analytics = await startServiceProcess('analytics-api', { ...env, PORT: port, USAGE_INGEST_URL: ingest.url });
  return {
    ingest,
    analytics,
    async stop() {
      for (const release of [analytics.stop, ingest.stop, database.drop, redis.drop]) await release();
    },
  };
}
