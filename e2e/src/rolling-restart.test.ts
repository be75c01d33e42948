import { once } from 'node:events';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { dayOf } from '@tally/contracts';
import { createAnalyticsClient, createEngineClient, createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';

const KEY = 'the-admin-key-of-the-rollout';
const SERVICES = ['usage-ingest', 'metrics-engine', 'analytics-api', 'console'];
const CHECK_MS = 100;
/** Failed checks in a row after which an instance gets no more requests, as HAProxy and Kubernetes count by default. */
const FALL = 3;
/** What a balancer takes to notice, with room for a busy machine. */
const DRAIN_MS = 10_000;
/** Longer than callers keep idle connections, as for any balancer: whoever closes first must not be it. */
const KEEP_ALIVE_MS = 600_000;
const CALLERS = 6;
/** Between two calls of a caller: requests are always under way, and restarts take most of the CPU. */
const PAUSE_MS = 25;

type Balancer = {
  url: string;
  /** Sends requests to an instance whenever it is ready; resolves when it has seen that. */
  add(target: string): Promise<void>;
  /** Resolves when it has seen that an instance is ready. */
  seen(target: string): Promise<void>;
  close(): Promise<void>;
};

/** Divides requests among the instances whose `/readyz` answers 200, in turn; it never repeats a request. */
async function startBalancer(): Promise<Balancer> {
  const ready = new Map<string, boolean>();
  const closing = new AbortController();
  let next = 0;
  const server = createServer((incoming, outgoing) => {
    const targets = [...ready.keys()].filter((target) => ready.get(target));
    const target = targets[next++ % targets.length];
    if (!target) return void outgoing.writeHead(502).end('no instance is ready');
    const { method, headers, url } = incoming;
    const onward = request(new URL(url!, target), { method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(outgoing);
    });
    onward.on('error', (error) =>
      outgoing.headersSent ? outgoing.destroy() : outgoing.writeHead(502).end(error.message),
    );
    incoming.pipe(onward);
  });
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const watch = async (target: string) => {
    for (let failed = FALL; !closing.signal.aborted; ) {
      const answer = await fetch(`${target}/readyz`).catch(() => undefined);
      failed = answer?.status === 200 ? 0 : failed + 1;
      ready.set(target, failed < FALL);
      await answer?.arrayBuffer().catch(() => {});
      await wait(CHECK_MS);
    }
  };
  const seen = async (target: string) => {
    await until(`${target} to be seen ready`, () => ready.get(target), 20);
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    add(target) {
      ready.set(target, false);
      void watch(target);
      return seen(target);
    },
    seen,
    async close() {
      closing.abort();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

const releases: (() => Promise<unknown>)[] = [];
/** Two of each service, in the order of `SERVICES`. */
let instances: [ServiceProcess, ServiceProcess][];
let balancers: Balancer[];

beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  balancers = await Promise.all(SERVICES.map(startBalancer));
  const [ingest, engine, analytics] = balancers.map(({ url }) => url) as [string, string, string, string];
  const env = {
    ...{ DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: KEY, TALLY_SERVICE_KEY: `${KEY}-s` },
    ...{ USAGE_INGEST_URL: ingest, METRICS_ENGINE_URL: engine, ANALYTICS_API_URL: analytics },
    SHUTDOWN_DELAY_MS: String(DRAIN_MS),
    SHUTDOWN_DEADLINE_MS: '60000',
    POSTGRES_POOL_SIZE: '4',
    LOG_LEVEL: 'warn',
  };
  releases.push(database.drop, redis.drop);
  instances = [];
  for (const [index, name] of SERVICES.entries()) {
    const pair = [startServiceProcess(name, env), startServiceProcess(name, env)] as const;
    instances.push(await Promise.all(pair));
    for (const { url } of instances[index]!) await balancers[index]!.add(url);
  }
}, 600_000);
afterAll(async () => {
  for (const pair of instances ?? []) await Promise.all(pair.map((service) => service.stop()));
  await Promise.all((balancers ?? []).map((balancer) => balancer.close()));
  for (const release of releases) await release();
});

test('two of each service restart in turn under load, and no request fails', { timeout: 850_000 }, async () => {
  const [ingestUrl, engineUrl, analyticsUrl, consoleUrl] = balancers.map(({ url }) => url) as [
    string,
    string,
    string,
    string,
  ];
  const today = dayOf(Date.now());
  const ingest = createIngestClient({ url: ingestUrl, key: KEY });
  const engine = createEngineClient({ url: engineUrl, key: KEY });
  const analytics = createAnalyticsClient({ url: analyticsUrl, key: KEY });
  const origin = createIngestClient({ url: consoleUrl, key: KEY });
  let recorded = 0;
  const entries = () => [{ id: String(recorded++), merchantId: 'rollout', metrics: { queries: '1' } }];
  const calls = [
    () => ingest.usage.record.mutate({ entries: entries() }),
    () => origin.usage.record.mutate({ entries: entries() }),
    () => engine.realtime.increment.mutate({ name: 'rollout', by: '1' }),
    () => analytics.analytics.merchantUsage.query({ merchantId: 'rollout', startDate: today, endDate: today }),
    () => origin.usage.current.query({ merchantId: 'rollout' }),
  ];

  let [requests, isRolling] = [0, true];
  const failures: string[] = [];
  const caller = async (from: number) => {
    for (let turn = from; isRolling || requests < 1_000; turn++) {
      requests++;
      await calls[turn % calls.length]!().catch((error: Error) =>
        failures.push(`${turn % calls.length}: ${error.message}`),
      );
      await wait(PAUSE_MS);
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, index) => caller(index));
  const restart = async (service: ServiceProcess, balancer: Balancer) => {
    expect(await service.stop()).toBe(0);
    await service.start();
    // The other one stops when this one has requests again, as a rolling update waits for readiness.
    await balancer.seen(service.url);
  };
  for (const turn of [0, 1] as const)
    await Promise.all(instances.map((pair, index) => restart(pair[turn], balancers[index]!)));
  isRolling = false;
  await Promise.all(callers);

  expect(failures).toEqual([]);
  expect(requests).toBeGreaterThanOrEqual(1_000);
  await ingest.flush.drain.mutate({});
  const { metrics } = await ingest.usage.current.query({ merchantId: 'rollout', metricTypes: ['queries'] });
  expect(metrics).toEqual({ queries: String(recorded) });
  const scope = { startDate: today, endDate: today, merchantIds: ['rollout'] };
  expect(await ingest.reconcile.check.query(scope)).toMatchObject({ balanced: true, drift: [] });
});
