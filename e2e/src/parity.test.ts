import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { OpenMeter } from '@openmeter/sdk';
import { addDays, type Day, dayOf, startOfDay } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { Client } from 'lago-javascript-client';
import Stripe from 'stripe';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startServices } from './services.ts';

/** Shadow mode: events go to another product and to Tally with the product's own client; `npm run parity` compares. */
const KEY = 'the-admin-key-of-parity';
const HOUR = 3_600_000;
const MAIN = join(
  dirname(createRequire(import.meta.url).resolve('@tally/usage-ingest/package.json')),
  'dist/parity/main.js',
);
const releases: (() => Promise<unknown>)[] = [];
let url: string;
let analyticsUrl: string;
const today = dayOf(Date.now());
const day = (ago: number): Day => addDays(today, -ago);
const at = (ago: number, hour = 12) => startOfDay(day(ago)) + hour * HOUR;

beforeAll(async () => {
  const { ingest, analytics, stop } = await startServices({ TALLY_ADMIN_KEY: KEY });
  releases.push(stop);
  ({ url } = ingest);
  analyticsUrl = analytics.url;
});
afterAll(async () => {
  for (const release of releases) await release();
});

type Answer = object | { status: number };
type Handler = (path: string, query: URLSearchParams, body: string) => Answer;

/** A product's HTTP API with the key `theirs`. */
async function fake(handle: Handler): Promise<string> {
  const server = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url!, 'http://fake');
    const isKnown = request.headers.authorization === 'Bearer theirs';
    const answer = isKnown
      ? handle(`${request.method} ${pathname}`, searchParams, await bodyOf(request))
      : { status: 401 };
    const status = 'status' in answer && typeof answer.status === 'number' ? answer.status : 200;
    response
      .writeHead(status, { 'content-type': 'application/json' })
      .end(status === 204 ? '' : JSON.stringify(answer));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  releases.push(async () => server.close());
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
}

function parity(args: string[], key = 'theirs', more = {}): Promise<{ code: number; out: string }> {
  const env = {
    PATH: process.env.PATH,
    TALLY_ADMIN_KEY: KEY,
    USAGE_INGEST_URL: url,
    ANALYTICS_API_URL: analyticsUrl,
    PARITY_KEY: key,
    ...more,
  };
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...args], { env }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code) : 0, out: stdout + stderr }),
    );
  });
}

test('OpenMeter: names missing and rejected events, and finds days of another zone', async () => {
  const held: {
    event: { id: string; source: string; type: string; subject: string; time: string; data: { pages: number } };
    ingestedAt: string;
  }[] = [];
  let shift = 0;
  const meter = { slug: 'pages', aggregation: 'SUM', eventType: 'print', valueProperty: '$.pages', groupBy: {} };
  const theirs = await fake((path, query, body) => {
    if (path === 'POST /api/v1/events') {
      for (const event of JSON.parse(body)) held.push({ event, ingestedAt: new Date().toISOString() });
      return { status: 204 };
    }
    if (path === 'GET /api/v1/meters/pages') return meter;
    const [from, to] = ['from', 'to'].map((name) => Date.parse(query.get(name) ?? ''));
    if (path === 'GET /api/v1/events') {
      const subject = query.get('subject');
      return held
        .filter(
          ({ event }) => event.subject === subject && Date.parse(event.time) >= from! && Date.parse(event.time) < to!,
        )
        .sort((a, b) => b.event.time.localeCompare(a.event.time))
        .slice(0, Number(query.get('limit')));
    }
    if (path !== 'GET /api/v1/meters/pages/query') return { status: 404 };
    const sums = new Map<string, number>();
    for (const { event } of held) {
      const date = dayOf(Date.parse(event.time) + shift * HOUR);
      if (startOfDay(date) < from! || startOfDay(date) >= to!) continue;
      const key = `${date} ${event.subject}`;
      sums.set(key, (sums.get(key) ?? 0) + event.data.pages);
    }
    const data = [...sums].map(([key, value]) => {
      const [date, subject] = key.split(' ') as [Day, string];
      const [windowStart, windowEnd] = [startOfDay(date), startOfDay(addDays(date, 1))].map((ms) =>
        new Date(ms).toISOString(),
      );
      return { value, windowStart, windowEnd, subject, groupBy: {} };
    });
    return { from: query.get('from'), to: query.get('to'), windowSize: 'DAY', data };
  });
  const there = new OpenMeter({ baseUrl: theirs, apiKey: 'theirs' });
  const here = new OpenMeter({ baseUrl: `${url}/sources/openmeter`, apiKey: KEY });
  // A scale comes from a meter of Tally: OpenMeter's have none.
  await createIngestClient({ url, key: KEY }).meters.create.mutate({
    ...{ key: 'pages', aggregation: 'SUM', valueProperty: 'pages', eventType: 'print', scale: 1 },
  });
  const event = (id: string, ago: number, hour: number, pages: number, subject = 'acme') => ({
    ...{ id, source: 'app', type: 'print', subject, time: new Date(at(ago, hour)), data: { pages } },
  });
  const args = ['--source', 'openmeter', '--url', theirs, '--meter', 'pages'];
  // 0.1 + 0.2 is not 0.3 there.
  const both = [7, 6, 5, 4, 3, 2, 1].flatMap((ago) => [
    event(`a${ago}`, ago, 1, ago),
    event(`b${ago}`, ago, 13, 0.1),
    event(`c${ago}`, ago, 22.5, ago % 2 === 0 ? 0.2 : 0.4),
    event(`d${ago}`, ago, 12, 5, 'globex'),
  ]);
  await there.events.ingest(both);
  await here.events.ingest(both);
  const range = { from: new Date(at(7, 0)), to: new Date(at(0, 0)), windowSize: 'DAY' as const };
  const seen = await there.meters.query('pages', { ...range, groupBy: ['subject'] });
  expect(seen?.data).toHaveLength(14);
  const equal = await parity(args);
  expect(equal.out).toContain('14 of 14 sums agree');
  expect(equal.code).toBe(0);

  await there.events.ingest([event('lost', 3, 5, 7), event('fine', 2, 5, 0.25, 'globex')]);
  await here.events.ingest(event('fine', 2, 5, 0.25, 'globex')).catch(() => {});
  await here.events.ingest(event('own', 4, 5, 2));
  const different = await parity(args);
  expect(different.code).toBe(1);
  expect(different.out).toContain('11 of 14 sums agree');
  expect(different.out).toMatch(
    new RegExp(`missing here: ce:app lost at ${day(3)}T05:00:00.000Z, 7; late: it came \\d days after its time`),
  );
  expect(different.out).toMatch(/missing here: ce:app fine at .*, 0\.25; rejected: INVALID_ENTRY: .*1 decimals/);
  expect(different.out).toContain('missing there: ce:app own, 2');

  shift = 2;
  const shifted = await parity([...args, '--merchants', 'acme', '--from', day(7), '--to', day(5)]);
  expect(shifted.code).toBe(1);
  expect(shifted.out).toContain('day boundaries: their days are those of UTC+02:00');
});

test('OpenMeter: compares by further dimensions, and reads all pages of events', async () => {
  const event = (id: number, pages: number, model: string, type = 'scan') => ({
    event: {
      ...{ id: String(id), source: 'app', type, subject: 'acme', data: { pages, model } },
      time: new Date(at(1) + id * 1000).toISOString(),
    },
  });
  // The newest events, more than a page, are of another type: the meter counts none of them.
  const held = Array.from({ length: 370 }, (_, id) =>
    event(id, 1, id % 2 === 0 ? 'even' : 'odd', id < 250 ? 'scan' : 'copy'),
  );
  const meter = { slug: 'scans', aggregation: 'SUM', eventType: 'scan', valueProperty: '$.pages' };
  let asked: URLSearchParams[] = [];
  const theirs = await fake((path, query) => {
    if (path === 'GET /api/v1/meters/scans') return { ...meter, groupBy: { model: '$.model' } };
    const [from, to] = ['from', 'to'].map((name) => Date.parse(query.get(name) ?? ''));
    if (path === 'GET /api/v1/events') {
      asked.push(query);
      return held
        .filter((each) => Date.parse(each.event.time) >= from! && Date.parse(each.event.time) < to!)
        .sort((a, b) => b.event.time.localeCompare(a.event.time))
        .slice(0, Number(query.get('limit')));
    }
    if (path !== 'GET /api/v1/meters/scans/query') return { status: 404 };
    expect(query.getAll('groupBy')).toEqual(['subject', 'model']);
    const sum = (model: string) =>
      held
        .filter(({ event: { type, data } }) => type === 'scan' && data.model === model)
        .reduce((all, { event: each }) => all + each.data.pages, 0);
    if (to! <= startOfDay(day(1))) return { data: [] };
    const windowStart = new Date(startOfDay(day(1))).toISOString();
    const data = ['even', 'odd'].map((model) => ({
      ...{ value: sum(model), windowStart, subject: 'acme', groupBy: { model } },
    }));
    return { data };
  });
  await createIngestClient({ url, key: KEY }).meters.create.mutate({
    ...{ key: 'scans', aggregation: 'SUM', valueProperty: 'pages', eventType: 'scan', dimensions: ['model'] },
  });
  const here = new OpenMeter({ baseUrl: `${url}/sources/openmeter`, apiKey: KEY });
  await here.events.ingest(held.map(({ event: each }) => ({ ...each, time: new Date(each.time) })));
  const args = ['--source', 'openmeter', '--url', theirs, '--meter', 'scans', '--by', 'model'];
  expect(await parity(args)).toMatchObject({ code: 0, out: expect.stringContaining('2 of 2 sums agree') });
  expect(asked).toEqual([]);

  // The oldest event, which is on the last page: there it has another model, and one is only there.
  held[0] = event(0, 1, 'odd');
  held.push(event(-1, 7, 'even'));
  const { code, out } = await parity(args);
  expect(code).toBe(1);
  expect(out).toContain(`${day(1)}  scans  acme, even: theirs 131, ours 125 (-6)\n  2 events differ`);
  expect(out).toMatch(/missing here: ce:app -1 at .*, 7\n {2}missing there: ce:app 0, 1\n/);
  expect(out).toContain(`${day(1)}  scans  acme, odd: theirs 126, ours 125 (-1)\n  1 event differs`);
  expect(out).toMatch(/counted here for acme, even: ce:app 0 at /);
  expect(asked).toHaveLength(8);
  asked = [];
  const empty = ['--from', day(20), '--to', day(19)];
  expect(await parity([...args, ...empty])).toMatchObject({
    ...{ code: 2, out: `Neither OpenMeter nor Tally has sums from ${day(20)} to ${day(19)}: nothing was compared.\n` },
  });
  expect(await parity(['--source', 'stripe', '--meter', 'm', '--by', 'model'])).toMatchObject({
    ...{ code: 2, out: '--by is only for OpenMeter.\n' },
  });
});

test('Stripe: compares each customer by day, without events', async () => {
  const held: URLSearchParams[] = [];
  const list = (data: object[], has_more = false) => ({ object: 'list', data, has_more, url: '' });
  const theirs = await fake((path, query, body) => {
    if (path === 'POST /v1/billing/meter_events') {
      held.push(new URLSearchParams(body));
      return { object: 'billing.meter_event', identifier: held.at(-1)!.get('identifier') };
    }
    if (path === 'GET /v1/billing/meters')
      return list([
        { id: 'mtr_1', event_name: 'stripe_calls' },
        { id: 'mtr_2', event_name: 'stripe_hours' },
      ]);
    // One customer a page.
    if (path === 'GET /v1/customers')
      return query.get('starting_after') === 'cus_1' ? list([{ id: 'cus_2' }]) : list([{ id: 'cus_1' }], true);
    if (path === 'GET /v1/billing/meters/mtr_2/event_summaries')
      return list(
        query.get('customer') === 'cus_1' ? [{ id: 'h', start_time: at(2, 0) / 1000, aggregated_value: 2.25 }] : [],
      );
    if (path !== 'GET /v1/billing/meters/mtr_1/event_summaries') return { status: 404 };
    const sums = new Map<Day, number>();
    for (const event of held) {
      const date = dayOf(Number(event.get('timestamp')) * 1000);
      if (event.get('payload[stripe_customer_id]') === query.get('customer'))
        sums.set(date, (sums.get(date) ?? 0) + Number(event.get('payload[value]')));
    }
    return list(
      [...sums]
        .map(([date, aggregated_value]) => ({ id: date, start_time: startOfDay(date) / 1000, aggregated_value }))
        .filter(
          ({ start_time }) =>
            start_time >= Number(query.get('start_time')) && start_time < Number(query.get('end_time')),
        ),
    );
  });
  const clientOf = (address: string, key: string) => {
    const { hostname, port } = new URL(address);
    return new Stripe(key, { host: hostname, port, protocol: 'http' });
  };
  const [there, here] = [clientOf(theirs, 'theirs'), clientOf(url, KEY)];
  await here.billing.meters.create({
    ...{ display_name: 'Calls', event_name: 'stripe_calls', default_aggregation: { formula: 'sum' } },
  });
  const send = (stripe: Stripe, identifier: string, ago: number, value: string, customer = 'cus_1') =>
    stripe.billing.meterEvents.create({
      ...{ event_name: 'stripe_calls', identifier, timestamp: at(ago) / 1000 },
      payload: { stripe_customer_id: customer, value },
    });
  for (const stripe of [there, here]) {
    await send(stripe, '1', 2, '25');
    await send(stripe, '2', 2, '5', 'cus_2');
  }
  const summary = await there.billing.meters.listEventSummaries('mtr_1', {
    ...{ customer: 'cus_1', start_time: at(2, 0) / 1000, end_time: at(1, 0) / 1000, value_grouping_window: 'day' },
  });
  expect(summary.data).toMatchObject([{ aggregated_value: 25 }]);
  const args = ['--source', 'stripe', '--url', theirs, '--meter', 'stripe_calls'];
  expect(await parity(args)).toMatchObject({ code: 0, out: expect.stringContaining('2 of 2 sums agree') });
  await createIngestClient({ url, key: KEY }).meters.create.mutate({
    ...{ key: 'stripe_hours', aggregation: 'SUM', valueProperty: 'value', eventType: 'stripe_hours', scale: 1 },
  });
  const hours = { event_name: 'stripe_hours', identifier: 'h', timestamp: at(2) / 1000 };
  const payload = { stripe_customer_id: 'cus_1', value: '2.25' };
  await expect(here.billing.meterEvents.create({ ...hours, payload })).rejects.toMatchObject({ statusCode: 400 });
  const scaled = await parity(['--source', 'stripe', '--url', theirs, '--meter', 'stripe_hours']);
  expect(scaled.code).toBe(1);
  expect(scaled.out).toContain('scale: Stripe has decimals beyond the 1 of our meter');
  await send(there, '3', 3, '7');
  await send(here, '4', 4, '9', 'cus_2');
  const { code, out } = await parity(args);
  expect(code).toBe(1);
  expect(out).toContain(
    `${day(3)}  stripe_calls  cus_1: theirs 7, ours 0 (-7)\n  missing here: Stripe lists no events`,
  );
  expect(out).toContain(`${day(4)}  stripe_calls  cus_2: theirs 0, ours 9 (9)\n  missing there, or late there`);
});

test('Lago: adds up the events of a billable metric over its pages, and names those that differ', async () => {
  const held: {
    transaction_id: string;
    external_subscription_id: string;
    code: string;
    timestamp: string;
    properties: object;
  }[] = [];
  const theirs = await fake((path, query, body) => {
    if (path === 'POST /api/v1/events') {
      const { event } = JSON.parse(body);
      held.push({ ...event, timestamp: new Date(Number(event.timestamp) * 1000).toISOString() });
      return { event: { ...event, lago_id: event.transaction_id } };
    }
    const metric = { code: 'lago_gb', aggregation_type: 'sum_agg', field_name: 'gb' };
    if (path === 'GET /api/v1/billable_metrics/lago_gb') return { billable_metric: metric };
    if (path !== 'GET /api/v1/events') return { status: 404 };
    const page = Number(query.get('page'));
    const found = held.filter(
      ({ code, timestamp }) =>
        code === query.get('code') &&
        timestamp >= query.get('timestamp_from')! &&
        timestamp <= query.get('timestamp_to')!,
    );
    const events = found.slice((page - 1) * 100, page * 100);
    return { events, meta: { current_page: page, next_page: page * 100 < found.length ? page + 1 : null } };
  });
  const there = Client('theirs', { baseUrl: `${theirs}/api/v1` });
  const here = Client(KEY, { baseUrl: `${url}/sources/lago/api/v1` });
  await here.billableMetrics.createBillableMetric({
    billable_metric: { name: 'GB', code: 'lago_gb', aggregation_type: 'sum_agg', field_name: 'gb', recurring: false },
  });
  const eventOf = (id: string, ago: number, gb: string) => ({
    ...{ transaction_id: id, external_subscription_id: 'sub_1', code: 'lago_gb', timestamp: at(ago) / 1000 },
    properties: { gb },
  });
  const events = Array.from({ length: 120 }, (_, each) => eventOf(`t${each}`, 1 + (each % 3), '2'));
  for (const event of events) await there.events.createEvent({ event });
  await here.events.createBatchEvents({ events: events.slice(0, 100) });
  await here.events.createBatchEvents({ events: events.slice(100) });
  const args = ['--source', 'lago', '--url', `${theirs}/api/v1`, '--meter', 'lago_gb'];
  const equal = await parity(args);
  expect(equal.out).toContain('3 of 3 sums agree');
  expect(equal.code).toBe(0);
  await there.events.createEvent({ event: eventOf('only', 2, '3') });
  const { code, out } = await parity(args);
  expect(code).toBe(1);
  expect(out).toContain(`${day(2)}  lago_gb  sub_1: theirs 83, ours 80 (-3)`);
  expect(out).toMatch(/missing here: lago:only at .*, 3/);
});

test('LiteLLM: compares its daily sums by model, and names calls from its spend logs', async () => {
  const call = (request_id: string, spend: number, time = at(1)) => ({
    ...{ request_id, spend, model: 'gpt-4o', status: 'success', prompt_tokens: 10, completion_tokens: 2 },
    ...{
      startTime: new Date(time).toISOString(),
      user: 'ada',
      api_key: 'hash',
      call_type: 'acompletion',
      metadata: {},
    },
  });
  // 0.1 + 0.2 is 0.30000000000000004 there.
  const calls = [call('one', 0.1), call('two', 0.2)];
  const fillers: typeof calls = [];
  const theirs = await fake((path, query) => {
    if (path === 'GET /spend/logs/v2') {
      const [from, to] = ['start_date', 'end_date'].map((name) => Date.parse(`${query.get(name)!.replace(' ', 'T')}Z`));
      const of = [...fillers, ...calls].filter(
        ({ startTime }) => Date.parse(startTime) >= from! && Date.parse(startTime) <= to!,
      );
      const page = Number(query.get('page'));
      const size = Number(query.get('page_size'));
      const data = of.slice((page - 1) * size, page * size);
      return { data, total: of.length, page, total_pages: Math.ceil(of.length / size) };
    }
    if (path !== 'GET /user/daily/activity') return { status: 404 };
    const metrics = {
      spend: calls.reduce((sum, { spend }) => sum + spend, 0),
      prompt_tokens: 10 * calls.length,
      completion_tokens: 2 * calls.length,
      api_requests: calls.length,
      failed_requests: 0,
    };
    const models = { 'gpt-4o': { metrics, metadata: {}, api_key_breakdown: {} } };
    const results = query.get('start_date') === day(1) ? [{ date: day(1), metrics, breakdown: { models } }] : [];
    return { results, metadata: { has_more: false, total_pages: 1 } };
  });
  const { usage } = createIngestClient({ url, key: KEY });
  const record = (id: string, cost: string) =>
    usage.record.mutate({
      entries: [
        {
          ...{ id, merchantId: 'litellm', time: new Date(at(1)).toISOString(), model: 'gpt-4o', userId: 'ada' },
          metrics: { prompt_tokens: '10', completion_tokens: '2', cost },
        },
      ],
    });
  await record('one', '0.1');
  await record('two', '0.2');
  const args = ['--source', 'litellm', '--url', theirs, '--merchants', 'litellm'];
  const equal = await parity(args);
  expect(equal.out).toContain('4 of 4 sums agree');
  expect(equal.code).toBe(0);
  // In the last second of the day, behind a page of calls of another model.
  fillers.push(...Array.from({ length: 110 }, (_, n) => ({ ...call(`other-${n}`, 0, at(1) + n), model: 'other' })));
  calls.push(call('three', 0.5, at(0, 0) - 100));
  const { code, out } = await parity(args);
  expect(code).toBe(1);
  expect(out).toMatch(/requests {2}gpt-4o: theirs 3, ours 2 \(-1\)\n {2}1 event differs\n {2}missing here: three at /);
  expect(out).toMatch(/cost {2}gpt-4o: theirs 0\.8, ours 0\.3 \(-0\.5\)/);
});

test('exits with 2 on errors, and says what to do', async () => {
  const theirs = await fake(() => ({ status: 404 }));
  const of = (...args: string[]) => parity(['--source', 'openmeter', '--url', theirs, ...args]);
  expect(await of('--meter', 'pages')).toMatchObject({ code: 2, out: expect.stringContaining('answered 404') });
  expect(await of()).toMatchObject({ code: 2, out: expect.stringContaining('--meter is missing') });
  expect(await parity(['--source', 'stripe', '--url', theirs, '--meter', 'm'], 'wrong')).toMatchObject({
    ...{ code: 2, out: expect.stringContaining('answered 401') },
  });
  expect(await parity(['--source', 'nobody'])).toMatchObject({ code: 2, out: expect.stringContaining('Usage:') });
  const run = fileURLToPath(new URL('../../infra/local/run.mjs', import.meta.url));
  expect(spawnSync(process.execPath, [run, '--failure', '2']).status).toBe(2);
});

test('says which of the two does not answer or rejects its key, and prints all options', async () => {
  const theirs = await fake((path) =>
    path === 'GET /billable_metrics/calls'
      ? { billable_metric: { code: 'calls', aggregation_type: 'count_agg' } }
      : { events: [], meta: { next_page: null } },
  );
  const closed = createServer().listen(0, '127.0.0.1');
  await once(closed, 'listening');
  const nobody = `127.0.0.1:${(closed.address() as { port: number }).port}`;
  closed.close();
  const args = ['--source', 'lago', '--url', theirs, '--meter', 'calls'];
  const urls = { ANALYTICS_API_URL: `http://${nobody}`, USAGE_INGEST_URL: `http://${nobody}` };
  expect(await parity(args, 'theirs', urls)).toMatchObject({
    ...{ code: 2, out: expect.stringContaining(`Tally does not answer: connect ECONNREFUSED ${nobody}. Start it`) },
  });
  expect(await parity(args, 'theirs', { TALLY_ADMIN_KEY: 'wrong' })).toMatchObject({
    ...{ code: 2, out: 'Tally (TALLY_ADMIN_KEY): This API key is unknown or revoked.\n' },
  });
  expect(await parity(args, 'wrong')).toMatchObject({ code: 2, out: expect.stringMatching(/^http.* answered 401: /) });
  expect(await parity(['--source', 'lago', '--metre', 'calls'])).toMatchObject({
    ...{ code: 2, out: expect.stringMatching(/^Unknown option '--metre'[\s\S]*Usage: npm run parity/) },
  });
  expect(await parity(['--help'])).toMatchObject({ code: 0, out: expect.stringMatching(/^Usage: npm run parity/) });
});
