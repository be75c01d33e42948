import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Metronome from '@metronome/sdk';
import { OpenMeter } from '@openmeter/sdk';
import { OTLPTraceExporter as JsonExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { OTLPTraceExporter as ProtobufExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { Polar } from '@polar-sh/sdk';
import { addDays, dayOf } from '@tally/contracts';
import { createIngestClient, type IngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { freePort, type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { CloudEvent, emitterFor, httpTransport } from 'cloudevents';
import { Client } from 'lago-javascript-client';
import Orb from 'orb-billing';
import Stripe from 'stripe';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ServerHandle, type Servers, startServers } from '../../infra/local/servers.mjs';

/**
 * Other products' own clients while stores are unavailable: each is told so in its way, and what it sends again counts
 * once.
 */
const KEY = 'the-admin-key-of-the-outage';
let home: string;
let servers: Servers;
let ingest: ServiceProcess;
let analytics: ServiceProcess;
let admin: IngestClient;
let key: string;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'tally-sources-outage-'));
  servers = await startServers({ home, durable: true });
  await migrate(servers.databaseUrl);
  const port = String(await freePort());
  const stores = { DATABASE_URL: servers.databaseUrl, REDIS_URL: servers.redisUrl, TALLY_ADMIN_KEY: KEY };
  const env = { ...stores, LOG_LEVEL: 'fatal', ANALYTICS_API_URL: `http://127.0.0.1:${port}` };
  ingest = await startServiceProcess('usage-ingest', { ...env, FLUSH_INTERVAL_MS: '100' });
  analytics = await startServiceProcess('analytics-api', { ...env, PORT: port, USAGE_INGEST_URL: ingest.url });
  admin = createIngestClient({ url: ingest.url, key: KEY });
  ({ key } = await admin.keys.create.mutate({ name: 'clients', role: 'member' }));
});
afterAll(async () => {
  await analytics?.stop();
  await ingest?.stop();
  await servers?.remove();
  await rm(home, { recursive: true, force: true });
});

const time = new Date(Math.floor(Date.now() / 1000) * 1000 - 60_000);
const seconds = time.getTime() / 1000;

/** Sends one event of 5 units of the customer that is called like the product, always the same for the same id. */
type Send = (id: string) => Promise<unknown>;
const stripeAt = (token = key) => {
  const { hostname, port } = new URL(ingest.url);
  return new Stripe(token, { host: hostname, port, protocol: 'http' });
};
const stripeEvent = (customer: string, id: string) => ({
  ...{ event_name: 'units', identifier: id, payload: { stripe_customer_id: customer, value: '5' } },
});
const CLIENTS: Record<string, Send> = {
  cloudevents: async (id) => {
    const emit = emitterFor(httpTransport(`${ingest.url}/api/v1/events`));
    const event = new CloudEvent({ id, source: '/app', type: 't', subject: 'cloudevents', time: time.toISOString() });
    const headers = { authorization: `Bearer ${key}` };
    // It resolves whatever it is answered.
    const { body } = (await emit(event.cloneWith({ data: { units: 5 } }), { headers })) as { body: string };
    if (body !== '') throw Object.assign(new Error(body), JSON.parse(body));
  },
  openmeter: (id) =>
    new OpenMeter({ baseUrl: `${ingest.url}/sources/openmeter`, apiKey: key }).events.ingest({
      ...{ id, source: 'app', type: 't', subject: 'openmeter', time, data: { units: 5 } },
    }),
  stripe_v1: (id) =>
    stripeAt().billing.meterEvents.create({ ...stripeEvent('stripe_v1', `v1 ${id}`), timestamp: seconds }),
  stripe_v2: (id) =>
    stripeAt().v2.billing.meterEvents.create({
      ...stripeEvent('stripe_v2', `v2 ${id}`),
      timestamp: time.toISOString(),
    }),
  stripe_stream: (id) =>
    stripeAt().v2.billing.meterEventStream.create({
      events: [{ ...stripeEvent('stripe_stream', `stream ${id}`), timestamp: time.toISOString() }],
    }),
  lago: (id) =>
    Client(key, { baseUrl: `${ingest.url}/sources/lago/api/v1` }).events.createEvent({
      event: {
        ...{ transaction_id: id, external_subscription_id: 'lago', code: 't', timestamp: String(seconds) },
        properties: { units: '5' },
      },
    }),
  metronome: (id) =>
    new Metronome({ bearerToken: key, baseURL: `${ingest.url}/sources/metronome` }).v1.usage.ingest({
      usage: [
        {
          ...{ transaction_id: id, customer_id: 'metronome', event_type: 't', timestamp: time.toISOString() },
          properties: { units: 5 },
        },
      ],
    }),
  orb: (id) =>
    new Orb({ apiKey: key, baseURL: `${ingest.url}/sources/orb/v1` }).events.ingest({
      events: [
        {
          ...{ idempotency_key: id, external_customer_id: 'orb', event_name: 't', timestamp: time.toISOString() },
          properties: { units: 5 },
        },
      ],
    }),
  polar: (id) =>
    new Polar({ accessToken: key, serverURL: `${ingest.url}/sources/polar` }).events.ingest({
      events: [{ name: 't', externalId: id, externalCustomerId: 'polar', timestamp: time, metadata: { units: 5 } }],
    }),
  otlp_json: (id) => exported(JsonExporter, 'otlp_json', id),
  otlp_protobuf: (id) => exported(ProtobufExporter, 'otlp_protobuf', id),
};
const PRODUCTS = Object.keys(CLIENTS);

/** What each client is given when both stores are unavailable; it throws this itself, but for the first. */
const REFUSALS: Record<string, object> = {
  cloudevents: { status: 503, code: 'UNAVAILABLE' },
  openmeter: { status: 503 },
  lago: { status: 503 },
  metronome: { status: 503 },
  orb: { status: 503 },
  polar: { statusCode: 503 },
  ...Object.fromEntries(
    ['stripe_v1', 'stripe_v2', 'stripe_stream'].map((name) => [name, { type: 'StripeAPIError', statusCode: 503 }]),
  ),
  // It waits for its time to end, or for the pause that it is told.
  otlp_json: {},
  otlp_protobuf: {},
};

const spans = new Map<string, ReturnType<InMemorySpanExporter['getFinishedSpans']>>();

/** Exports a span; the same one again for the same id, as the exporter does where it tries again. */
async function exported(Exporter: typeof JsonExporter | typeof ProtobufExporter, name: string, id: string) {
  const memory = new InMemorySpanExporter();
  if (!spans.has(name + id)) {
    const resource = resourceFromAttributes({ 'service.name': name });
    const provider = new BasicTracerProvider({ resource, spanProcessors: [new SimpleSpanProcessor(memory)] });
    const attributes = { 'gen_ai.request.model': 'gpt-4o', 'gen_ai.usage.input_tokens': 5 };
    provider.getTracer('test').startSpan('chat', { attributes, startTime: time }).end();
    await provider.forceFlush();
    spans.set(name + id, memory.getFinishedSpans());
  }
  // Its attempts and pauses end then.
  const timeoutMillis = 5_000;
  const exporter = new Exporter({
    ...{ url: `${ingest.url}/v1/traces`, headers: { authorization: `Bearer ${key}` }, timeoutMillis },
  });
  await new Promise<void>((resolve, reject) => {
    exporter.export(spans.get(name + id)!, ({ code, error }) => (code === 0 ? resolve() : reject(error)));
  });
}

/** Sends again until it is taken: a client may have given up waiting for a service that was looking for its store. */
async function sendAll(id: string): Promise<void> {
  await Promise.all(
    PRODUCTS.map((name) =>
      until(`${name} to be taken`, () =>
        CLIENTS[name]!(id).then(
          () => true,
          () => false,
        ),
      ),
    ),
  );
}

const away = (store: 'redis' | 'postgres') =>
  until(`${store} to be away`, async () => {
    const state = (await (await fetch(`${ingest.url}/readyz`)).json()) as Record<string, unknown>;
    return state[store] === false;
  });

/** Resolves when events are given to both stores: one that comes back is looked at before it is used. */
const bothInUse = () =>
  until('both stores to be in use', async () => {
    const response = await fetch(`${ingest.url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } });
    return (await response.text()).match(/^tally_store_in_use\{store="\w+"\} 1$/gm)?.length === 2;
  });

async function expectCounted(ids: number): Promise<void> {
  await bothInUse();
  await admin.flush.drain.mutate({});
  const today = dayOf(Date.now());
  const range = { startDate: addDays(today, -1), endDate: today, merchantIds: PRODUCTS };
  expect(await admin.reconcile.check.query(range)).toMatchObject({ balanced: true, drift: [] });
  const counted: Record<string, unknown> = {};
  for (const merchantId of PRODUCTS) {
    const { metrics } = await admin.usage.current.query({ merchantId, date: dayOf(time.getTime()) });
    counted[merchantId] = [metrics.requests, metrics.units ?? metrics.prompt_tokens];
  }
  expect(counted).toEqual(Object.fromEntries(PRODUCTS.map((name) => [name, [String(ids), String(5 * ids)]])));
}

/** Sums of each product that answers queries, by its own client. */
const SUMS: Record<string, () => Promise<number>> = {
  async openmeter() {
    const { meters } = new OpenMeter({ baseUrl: `${ingest.url}/sources/openmeter`, apiKey: key });
    const from = new Date(Math.floor(time.getTime() / 86_400_000) * 86_400_000);
    const answer = await meters.query('unit_sums', { from, subject: ['openmeter'] });
    return answer!.data[0]!.value;
  },
  async stripe() {
    const start_time = Math.floor(seconds / 86_400) * 86_400;
    const range = { customer: 'stripe_v1', start_time, end_time: start_time + 86_400 };
    return (await stripeAt().billing.meters.listEventSummaries('unit_sums', range)).data[0]!.aggregated_value;
  },
  async lago() {
    const { customers } = Client(key, { baseUrl: `${ingest.url}/sources/lago/api/v1` });
    const { data } = await customers.findCustomerCurrentUsage('lago', { external_subscription_id: 'lago' });
    return Number(data.customer_usage.charges_usage[0]!.units);
  },
};

test('with one store away every client is taken, and repeats of what came before count once', async () => {
  await admin.meters.create.mutate({ key: 'unit_sums', aggregation: 'SUM', metricType: 'units' });
  await sendAll('healthy');
  await servers.redis.kill();
  await away('redis');
  await sendAll('without-redis');
  // Events may wait there, and these formats cannot say so.
  for (const [name, field] of Object.entries({ openmeter: 'status', stripe: 'statusCode', lago: 'status' }))
    await expect(SUMS[name]!(), name).rejects.toEqual(expect.objectContaining({ [field]: 503 }));
  await sendAll('healthy');
  await servers.redis.start();
  await bothInUse();
  await sendAll('without-redis');
  await servers.postgres.kill();
  await away('postgres');
  await sendAll('without-postgres');
  const api = `${ingest.url}/sources`;
  const unavailable = (field: string) => expect.objectContaining({ [field]: 503 });
  const openmeter = new OpenMeter({ baseUrl: `${api}/openmeter`, apiKey: key });
  await expect(openmeter.meters.list()).rejects.toEqual(unavailable('status'));
  await expect(stripeAt().billing.meters.list()).rejects.toEqual(unavailable('statusCode'));
  const lago = Client(key, { baseUrl: `${api}/lago/api/v1` });
  await expect(lago.billableMetrics.findAllBillableMetrics()).rejects.toEqual(unavailable('status'));
  // The identity of LiteLLM's calls is kept there, so these wait for the pull.
  const body = JSON.stringify({ id: 'call', startTime: seconds, model: 'gpt-4o' });
  const headers = { authorization: `Bearer ${key}` };
  const pushed = await fetch(`${api}/litellm/logs`, { method: 'POST', headers, body });
  expect([pushed.status, pushed.headers.get('retry-after')]).toEqual([503, '1']);
  await servers.postgres.start();
  await bothInUse();
  await sendAll('without-postgres');
  await expectCounted(3);
  for (const [name, sum] of Object.entries(SUMS)) expect([name, await sum()]).toEqual([name, 15]);
});

/** Sends a signal; a child of Postgres may have ended meanwhile. */
function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Stops a server and its children, which answer nothing until they go on. Returns the processes. */
function stopped({ pid }: ServerHandle): number[] {
  signal(pid!, 'SIGSTOP');
  const { stdout } = spawnSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' });
  const children = stdout.split('\n').filter(Boolean).map(Number);
  for (const child of children) signal(child, 'SIGSTOP');
  return [pid!, ...children];
}

test('with both stores hanging every client is refused in its own way, and what it sends again counts once', async () => {
  await sendAll('before');
  const processes = [servers.redis, servers.postgres].flatMap(stopped);
  try {
    const refused = await Promise.allSettled(PRODUCTS.map((name) => CLIENTS[name]!('hanging')));
    for (const [index, name] of PRODUCTS.entries())
      expect([name, refused[index]]).toEqual([
        name,
        { status: 'rejected', reason: expect.objectContaining(REFUSALS[name]!) },
      ]);
  } finally {
    for (const pid of processes) signal(pid, 'SIGCONT');
  }
  await bothInUse();
  await sendAll('hanging');
  await sendAll('before');
  await expectCounted(5);
});
