import { lookup } from 'node:dns';
import { EventEmitter, once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { HOUR_MS, MAX_WEBHOOKS } from '@tally/contracts';
import { until } from '@tally/testkit';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Engine, prepareStores, type Stores } from '../../test/start.ts';
import { isPublic, lookupPublic, type Resolve } from './address-guard.ts';
import { createAlerts } from './alerts.ts';
import { createDeliver, reasonOf } from './deliver.ts';
import { compare } from './measure.ts';

let stores: Stores;
let clock: { now: number };
let one: Engine;
let other: Engine;
let receiver: Server;
let url: string;
type Received = { path: string; headers: Record<string, string>; body: string };
let received: Received[];
/** The receiver's next answers; 204 when there are none. */
let answers: number[];

beforeAll(async () => {
  stores = await prepareStores();
  clock = { now: Date.now() };
  const settings = { WEBHOOK_ALLOW_PRIVATE: 'true' };
  [one, other] = await Promise.all([stores.start(settings, () => clock.now), stores.start(settings, () => clock.now)]);
});
afterAll(() => stores.close());

beforeEach(async () => {
  [received, answers] = [[], []];
  receiver = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    received.push({
      path: request.url!,
      headers: request.headers as Record<string, string>,
      body: Buffer.concat(chunks).toString('utf8'),
    });
    const status = answers.shift() ?? 204;
    response.writeHead(status, status === 302 ? { location: '/elsewhere' } : {}).end();
  }).listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`;
});
afterEach(async () => {
  for (const { id } of (await one.engine.webhooks.list.query()).rows) await one.engine.webhooks.remove.mutate({ id });
  for (const { id } of (await one.engine.alerts.list.query()).rows) await one.engine.alerts.remove.mutate({ id });
  await stores.client.query(`update budgets set removed_at = now() where removed_at is null`);
  await stores.client.query('update budget_list set version = version + 1');
  receiver.closeAllConnections();
  receiver.close();
});

const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

const notAsked = () => Promise.reject(new Error('not asked for'));

/** The alerts of a process that has just started. `flushed` gets the merchants whose usage it flushes. */
const newAlerts = (
  custom: Parameters<typeof createAlerts>[0]['custom'] = { measure: notAsked, get: notAsked },
  flushed: (string | null)[] = [],
  isComplete: (merchantId: string | null) => boolean = () => true,
) =>
  createAlerts({
    ...{ db: stores.db, custom, now: () => clock.now },
    async drain(merchantId) {
      flushed.push(merchantId);
      return { complete: isComplete(merchantId), asOf: null };
    },
    onError(error) {
      throw error;
    },
  });

const verify = ({ headers, body }: Received, secret: string) => new Webhook(secret).verify(body, headers);

/** A budget with its spend, as usage-ingest stores them. */
async function budgetOf(spent: string, more: { thresholds?: number[]; period?: string } = {}): Promise<string> {
  const { thresholds = [], period = 'month' } = more;
  const { rows } = await stores.client.query(
    `insert into budgets (name, merchant_id, user_id, api_key, model, measure, "limit", period, time_zone, enforcement,
       when_unavailable, thresholds, created_by)
     values ('November', 'acme', '', '', '', 'cost', 10000000000, $1, 'UTC', 'soft', 'allow', $2, 'admin') returning id`,
    [period, thresholds],
  );
  const { id } = rows[0];
  await stores.client.query('update budget_list set version = version + 1');
  await spend(id, spent, period);
  return id;
}

const spend = (id: string, units: string, period = 'month') =>
  stores.client.query(
    `insert into budget_spend values ($1, date_trunc($4, $2::timestamptz, 'UTC'), $3)
     on conflict (budget_id, period_start) do update set units = excluded.units`,
    [id, new Date(clock.now), units, period],
  );

describe('a webhook', () => {
  test('needs a port at which something can listen', async () => {
    for (const refused of ['https://hooks.example.com:0/', 'http://hooks.example.com:00000']) {
      const error = { data: { code: 'INVALID_INPUT' }, message: 'url: Expected a port from 1 to 65535' };
      await expect(one.engine.webhooks.create.mutate({ url: refused })).rejects.toMatchObject(error);
    }
  });

  test('is signed so that the standard library verifies it, also while a secret is rotated', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url });
    const delivery = await one.engine.webhooks.test.mutate({ id: webhook.id });
    expect(await one.deliver.run()).toBe(1);
    expect(verify(received[0]!, webhook.secret!)).toMatchObject({ type: 'webhook.test', text: expect.any(String) });
    expect(received[0]!.headers['webhook-id']).toBe(delivery.id);
    const rotated = await one.engine.webhooks.update.mutate({ id: webhook.id, rotateSecret: true });
    expect(rotated.secret).not.toBe(webhook.secret);
    await one.engine.webhooks.replay.mutate({ id: delivery.id });
    await one.deliver.run();
    for (const secret of [webhook.secret!, rotated.secret!]) verify(received[1]!, secret);
    expect(received[1]!.headers['webhook-id']).toBe(delivery.id);
    expect(() => verify({ ...received[1]!, body: `${received[1]!.body} ` }, rotated.secret!)).toThrow();
    const start = clock.now;
    clock.now += 25 * HOUR_MS;
    await one.engine.webhooks.replay.mutate({ id: delivery.id });
    await one.deliver.run();
    expect(received[2]!.headers['webhook-signature']!.split(' ')).toHaveLength(1);
    clock.now = start;
    expect(JSON.stringify(await one.engine.webhooks.list.query())).not.toContain('whsec_');
  });

  test('is tried again with growing pauses, for a day, and never follows a redirect', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url });
    const { id } = await one.engine.webhooks.test.mutate({ id: webhook.id });
    const start = clock.now;
    answers = [302, 500, ...Array<number>(40).fill(503)];
    const pauses: number[] = [];
    for (;;) {
      expect(await one.deliver.run()).toBe(1);
      const { rows } = await one.engine.webhooks.deliveries.query({ webhookId: webhook.id });
      const [delivery] = rows;
      if (delivery!.status !== 'pending') break;
      const next = Date.parse(delivery!.nextAttemptAt!);
      pauses.push((next - clock.now) / 1000);
      clock.now = next - 1;
      expect(await one.deliver.run()).toBe(0);
      clock.now = next;
    }
    expect(received.every(({ path }) => path === '/hook')).toBe(true);
    expect(pauses.slice(0, 7)).toEqual([5, 30, 120, 600, 1800, 3600, 7200]);
    expect(clock.now - start).toBeGreaterThan(20 * HOUR_MS);
    const failed = await one.engine.webhooks.deliveries.query({ webhookId: webhook.id, status: 'failed' });
    expect(failed.rows).toMatchObject([{ id, lastStatus: 503, lastError: 'HTTP 503', attempts: pauses.length + 1 }]);
    clock.now = start;
  });

  test('waits for no receiver of another, however many messages of that one are due', async () => {
    const held: ServerResponse[] = [];
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const fiveHeld = new Promise<void>((resolve) => {
      silent.on('request', (_, response) => {
        held.push(response);
        if (held.length === 5) resolve();
      });
    });
    const slow = await one.engine.webhooks.create.mutate({
      url: `http://127.0.0.1:${(silent.address() as AddressInfo).port}/`,
    });
    for (let n = 0; n < 30; n++) await one.engine.webhooks.test.mutate({ id: slow.id });
    for (let n = 0; n < 2; n++) {
      const quick = await one.engine.webhooks.create.mutate({ url });
      await one.engine.webhooks.test.mutate({ id: quick.id });
      const arrived = once(receiver, 'request');
      expect(await one.deliver.begin()).toBe(n === 0 ? 6 : 1);
      await arrived;
    }
    await fiveHeld;
    silent.removeAllListeners('request').on('request', (_, response) => response.end());
    for (const response of held) response.end();
    expect(await one.deliver.run()).toBe(25);
    silent.closeAllConnections();
    silent.close();
  });

  test('goes on beside a message without an answer, with at most five at once', async () => {
    const held: ServerResponse[] = [];
    const slow = createServer((_, response) => {
      held.push(response);
      if (held.length > 1) response.end();
    }).listen(0, '127.0.0.1');
    await once(slow, 'listening');
    const webhook = await one.engine.webhooks.create.mutate({
      url: `http://127.0.0.1:${(slow.address() as AddressInfo).port}/`,
    });
    for (let n = 0; n < 12; n++) await one.engine.webhooks.test.mutate({ id: webhook.id });
    const delivered = async () =>
      (await one.engine.webhooks.deliveries.query({ webhookId: webhook.id, status: 'delivered' })).rows.length;
    for (const [begun, all] of [
      [5, 4],
      [4, 8],
      [3, 11],
    ] as const) {
      expect(await one.deliver.begin()).toBe(begun);
      await expect.poll(delivered).toBe(all);
    }
    held[0]!.end();
    expect(await one.deliver.run()).toBe(0);
    expect(await delivered()).toBe(12);
    slow.closeAllConnections();
    slow.close();
  });

  test('of many, some slow and some dead, waits for none, and no more is held than five messages of each', async () => {
    await stores.client.query('delete from webhook_deliveries');
    const perWebhook = 8;
    const held: ServerResponse[] = [];
    const slow = createServer((_, response) => void held.push(response)).listen(0, '127.0.0.1');
    const dead = createServer().listen(0, '127.0.0.1');
    await Promise.all([once(slow, 'listening'), once(dead, 'listening')]);
    const [slowPort, deadPort] = [slow, dead].map((server) => (server.address() as AddressInfo).port);
    await new Promise((resolve) => dead.close(resolve));
    const quickUrl = new URL(url);
    // As many webhooks as there may be: of each three a slow, a dead and a quick one.
    for (let n = 0; n < MAX_WEBHOOKS; n++)
      await stores.db.alerts.createWebhook({
        url: [`http://127.0.0.1:${slowPort}/`, `http://127.0.0.1:${deadPort}/`, `${quickUrl}?${n}`][n % 3]!,
        ...{ secret: SECRET, events: ['webhook.test'], createdBy: 'admin' },
      });
    const all = await stores.db.alerts.webhooks();
    await stores.client.query(
      `insert into webhook_deliveries (webhook_id, event, body, next_attempt_at, give_up_at, created_at)
       select id, 'webhook.test', '{"n":' || n || '}', $2::timestamptz - (10 - n) * interval '1 second', $2::timestamptz + interval '1 day', $2
       from unnest($1::uuid[]) as id cross join generate_series(1, $3::int) as n`,
      [all.map(({ id }) => id), new Date(clock.now), perWebhook],
    );
    const slowCount = all.filter((_, n) => n % 3 === 0).length;
    const quickCount = all.filter((_, n) => n % 3 === 2).length;
    const deadCount = MAX_WEBHOOKS - slowCount - quickCount;
    const failed = async () =>
      (await stores.client.query(`select from webhook_deliveries where last_error like '%ECONNREFUSED%'`)).rowCount;
    expect(await one.deliver.begin()).toBe(MAX_WEBHOOKS * 5);
    await until('the first messages of all', async () => {
      return received.length + held.length === (quickCount + slowCount) * 5 && (await failed()) === deadCount * 5;
    });
    await until('the other messages of the quick and the dead', async () => {
      await one.deliver.begin();
      return received.length === quickCount * perWebhook && (await failed()) === deadCount * perWebhook;
    });
    // However often it looks, a slow webhook has five messages in progress, and the others are not even read.
    for (let n = 0; n < 5; n++) expect(await one.deliver.begin()).toBe(0);
    expect(held).toHaveLength(slowCount * 5);
    const { rows } = await stores.client.query(
      `select attempts, count(*)::int from webhook_deliveries where status = 'pending' and last_error is null
       group by attempts order by attempts`,
    );
    expect(rows).toEqual([
      { attempts: 0, count: slowCount * (perWebhook - 5) },
      { attempts: 1, count: slowCount * 5 },
    ]);
    // Each quick one gets its messages five at a time, the oldest first.
    const byPath = new Map<string, number[]>();
    for (const { path, body } of received) byPath.set(path, [...(byPath.get(path) ?? []), JSON.parse(body).n]);
    for (const order of byPath.values()) {
      expect(order.slice(0, 5).sort()).toEqual([1, 2, 3, 4, 5]);
      expect(order.slice(5).sort()).toEqual([6, 7, 8]);
    }
    slow.removeAllListeners('request').on('request', (_, response) => response.end());
    for (const response of held) response.end();
    await one.deliver.run();
    expect((await stores.client.query(`select from webhook_deliveries where attempts = 0`)).rowCount).toBe(0);
    await stores.client.query('delete from webhook_deliveries');
    slow.closeAllConnections();
    slow.close();
  });

  test('records outcomes of messages that end together by one statement at a time', async () => {
    await stores.client.query('delete from webhook_deliveries');
    const held: ServerResponse[] = [];
    const slow = createServer((_, response) => void held.push(response)).listen(0, '127.0.0.1');
    await once(slow, 'listening');
    const { port } = slow.address() as AddressInfo;
    for (let n = 0; n < 20; n++) {
      const { id } = await one.engine.webhooks.create.mutate({ url: `http://127.0.0.1:${port}/${n}` });
      for (let m = 0; m < 5; m++) await one.engine.webhooks.test.mutate({ id });
    }
    let [inProgress, most] = [0, 0];
    const deliver = createDeliver({
      store: {
        take: stores.db.alerts.take,
        async ended(outcomes) {
          most = Math.max(most, ++inProgress);
          await stores.db.alerts.ended(outcomes);
          inProgress--;
        },
      },
      ...{ allowPrivate: true, resolve: lookup, now: () => clock.now },
      onError(error) {
        throw error;
      },
    });
    const run = deliver.run();
    await until('all messages to arrive', async () => held.length === 100);
    for (const response of held) response.end();
    expect(await run).toBe(100);
    expect(most).toBe(1);
    const { rows } = await stores.client.query(
      'select status, attempts, count(*)::int, count(ended_at)::int as ended from webhook_deliveries group by 1, 2',
    );
    expect(rows).toEqual([{ status: 'delivered', attempts: 1, count: 100, ended: 100 }]);
    await deliver.close();
    slow.closeAllConnections();
    slow.close();
  });

  test('verifies with the old or the new secret, whenever the secret is rotated', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url });
    for (let n = 0; n < 40; n++) await one.engine.webhooks.test.mutate({ id: webhook.id });
    const arrived = once(receiver, 'request');
    const run = one.deliver.run();
    await arrived;
    const { secret } = await one.engine.webhooks.update.mutate({ id: webhook.id, rotateSecret: true });
    await run;
    // Once the change is answered, both verify.
    await one.engine.webhooks.test.mutate({ id: webhook.id });
    await one.deliver.run();
    expect(received).toHaveLength(41);
    for (const each of received) verify(each, webhook.secret!);
    verify(received.at(-1)!, secret!);
    for (const { headers } of received) expect([1, 2]).toContain(headers['webhook-signature']!.split(' ').length);
  });

  test('is sent again where it is replayed while an attempt is in progress', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url });
    const { id } = await one.engine.webhooks.test.mutate({ id: webhook.id });
    const now = new Date(clock.now);
    const [taken] = await stores.db.alerts.take({
      ...{ now, until: new Date(clock.now + 60_000), each: 5, inProgress: new Map() },
    });
    await one.engine.webhooks.replay.mutate({ id });
    // The answer to the first attempt comes only now.
    const outcome = { status: 'failed', nextAt: now, lastStatus: 410, lastError: 'HTTP 410', at: now } as const;
    await stores.db.alerts.ended([{ ...outcome, id: taken!.id, takenUntil: taken!.taken_until }]);
    expect(await one.deliver.run()).toBe(1);
    const { rows } = await one.engine.webhooks.deliveries.query({ webhookId: webhook.id });
    expect(rows).toMatchObject([{ id, status: 'delivered', attempts: 1, lastStatus: 204 }]);
  });

  test('that fails names the code of its error once', async () => {
    const refused = await new Promise((resolve) => connect(1, '127.0.0.1').once('error', resolve));
    expect(reasonOf(refused)).toBe('connect ECONNREFUSED 127.0.0.1:1');
    expect(reasonOf(new TypeError('fetch failed', { cause: refused }))).toBe(`fetch failed: ${reasonOf(refused)}`);
    expect(reasonOf(Object.assign(new Error('no\nanswer'), { code: 'LATE' }))).toBe('no answer: LATE');
    expect(reasonOf(new DOMException('aborted', 'TimeoutError'))).toBe('no answer within 15 s');
  });

  test('is sent by one of several engines, and by another where one died with it', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url });
    for (let n = 0; n < 10; n++) await one.engine.webhooks.test.mutate({ id: webhook.id });
    const sent = await Promise.all([one.deliver.run(), other.deliver.run()]);
    expect(sent[0] + sent[1]).toBe(10);
    expect(new Set(received.map(({ headers }) => headers['webhook-id'])).size).toBe(10);
    const { id } = await one.engine.webhooks.test.mutate({ id: webhook.id });
    const taken = await stores.db.alerts.take({
      ...{ now: new Date(clock.now), until: new Date(clock.now + 60_000) },
      ...{ each: 20, inProgress: new Map() },
    });
    expect(taken.map((delivery) => delivery.id)).toEqual([id]);
    expect(await other.deliver.run()).toBe(0);
    clock.now += 60_000;
    expect(await other.deliver.run()).toBe(1);
  });

  test.each([
    { url: 'https://:password@hooks.example.com/' },
    { url: 'https://hooks.example.com/', secret: `whsec_${'A'.repeat(33)}` },
    { url: 'https://hooks.example.com/', secret: `whsec_${'A'.repeat(88)}` },
    { url: 'https://hooks.example.com/', secret: `whsec_${'A'.repeat(31)}=` },
  ])('with $url and secret $secret is refused', async (input) => {
    await expect(one.engine.webhooks.create.mutate(input)).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  });

  test('goes to no address that is not public, by name or by number', async () => {
    const guarded = await stores.start({}, () => clock.now);
    for (const refused of [
      ...['http://127.0.0.1/', 'http://0x7f.1/', 'http://[::1]/', 'http://169.254.169.254/latest'],
      ...['http://2130706433/', 'http://0177.0.0.1/', 'http://127.1/', 'http://127.0.0.1./', 'http://0/'],
      ...['http://127。0。0。1/', 'http://１２７.0.0.1/', 'http://%31%32%37.0.0.1/', 'http://[::ffff:7f00:1]/'],
      ...['http://[::ffff:127.0.0.1]/', 'http://[64:ff9b::7f00:1]/', 'http://[fd00:ec2::254]/'],
    ])
      await expect(guarded.engine.webhooks.create.mutate({ url: refused })).rejects.toMatchObject({
        data: { code: 'INVALID_INPUT' },
      });
    const port = (receiver.address() as AddressInfo).port;
    const webhook = await guarded.engine.webhooks.create.mutate({ url: `http://localhost:${port}/hook` });
    await guarded.engine.webhooks.test.mutate({ id: webhook.id });
    await guarded.deliver.run();
    const { rows } = await guarded.engine.webhooks.deliveries.query({ webhookId: webhook.id });
    expect(rows).toMatchObject([{ status: 'pending', lastError: expect.stringContaining('no public address') }]);
    expect(received).toEqual([]);
  });

  test('goes to no private address of a name that had a public one before', async () => {
    const answers: string[][] = [['93.184.215.14'], ['127.0.0.1'], ['93.184.215.14', '127.0.0.1']];
    let asked = 0;
    const resolve: Resolve = (_, __, callback) => {
      const addresses = answers[asked++ % answers.length]!;
      callback(
        null,
        addresses.map((address) => ({ address, family: 4 })),
      );
    };
    // Each connection resolves once, and goes to what was checked.
    const look = () =>
      new Promise((settle, reject) =>
        lookupPublic(resolve)('rebind.example', {}, (error, address) => (error ? reject(error) : settle(address))),
      );
    expect(await look()).toBe('93.184.215.14');
    expect(asked).toBe(1);
    await expect(look()).rejects.toThrow('rebind.example is at 127.0.0.1, no public address');
    await expect(look()).rejects.toThrow('no public address');
    asked = 1;
    const deliver = createDeliver({
      ...{ store: stores.db.alerts, allowPrivate: false, resolve, now: () => clock.now },
      onError(error) {
        throw error;
      },
    });
    const { port } = receiver.address() as AddressInfo;
    const webhook = await one.engine.webhooks.create.mutate({ url: `http://rebind.example:${port}/hook` });
    await one.engine.webhooks.test.mutate({ id: webhook.id });
    await deliver.run();
    const { rows } = await one.engine.webhooks.deliveries.query({ webhookId: webhook.id });
    expect(rows).toMatchObject([{ status: 'pending', lastError: expect.stringContaining('127.0.0.1, no public') }]);
    expect([asked, received]).toEqual([2, []]);
    await deliver.close();
  });

  test.each([
    ['8.8.8.8', true],
    ['2606:4700::1111', true],
    ['10.1.2.3', false],
    ['100.64.0.1', false],
    ['172.31.255.255', false],
    ['192.168.0.1', false],
    ['224.0.0.1', false],
    ['255.255.255.255', false],
    ['0.0.0.0', false],
    ['::', false],
    ['::ffff:8.8.8.8', false],
    ['64:ff9b::a00:1', false],
    ['fd00::1', false],
    ['fe80::1', false],
    ['2002:7f00:1::', false],
    ['localhost', false],
  ])('address %s is public: %s', (address, expected) => {
    expect(isPublic(address)).toBe(expected);
  });
});

describe('an alert', () => {
  test('of a budget fires at each threshold once a period, over several engines and restarts', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url, events: ['budget.threshold'] });
    const id = await budgetOf('4999999999', { thresholds: [50, 80, 100] });
    const run = () => Promise.all([one.alerts.run(), other.alerts.run(), one.alerts.run()]);
    await run();
    const fired = async () =>
      (await one.engine.alerts.history.query({ rule: `budget:${id}` })).rows.map(({ threshold }) => threshold).sort();
    expect(await fired()).toEqual([]);
    await spend(id, '8000000000');
    await run();
    await run();
    expect(await fired()).toEqual(['50', '80']);
    await one.deliver.run();
    const bodies = received.map(
      (each) => verify(each, webhook.secret!) as { type: string; data: object; text: string },
    );
    expect(bodies.map(({ data }) => (data as { threshold: number }).threshold).sort()).toEqual([50, 80]);
    expect(bodies[0]).toMatchObject({
      type: 'budget.threshold',
      data: { budgetId: id, merchantId: 'acme', spent: '8', limit: '10', percent: 80 },
      text: expect.stringContaining('8 of 10 USD used'),
    });
    const start = clock.now;
    clock.now += 31 * 24 * HOUR_MS;
    await spend(id, '10000000000');
    await run();
    expect(await fired()).toEqual(['100', '50', '50', '80', '80']);
    clock.now = start;
  });

  test('of thresholds that have fired writes nothing again', async () => {
    const id = await budgetOf('10000000000', { thresholds: [50, 80, 100] });
    const fired = async () => (await one.engine.alerts.history.query({ rule: `budget:${id}` })).rows.length;
    const lastId = async () => (await stores.client.query('select last_value from alert_firings_id_seq')).rows[0];
    await one.alerts.run();
    expect(await fired()).toBe(3);
    const before = await lastId();
    await Promise.all([newAlerts().run(), other.alerts.run()]);
    expect(await lastId()).toEqual(before);
  });

  test('of a budget waits for no other rule', async () => {
    const slow = new EventEmitter();
    const [asked, answered] = [once(slow, 'asked'), once(slow, 'answered')];
    const metric = await one.engine.custom.create.mutate({
      ...{ name: 'slow', metricType: 'COUNT', dataSource: 'usage', calculationFormula: 'COUNT(*)' },
      visibility: 'ORGANIZATION',
    });
    await one.engine.alerts.create.mutate({ name: 'slow', on: 'custom', target: metric.id, condition: { above: '1' } });
    const measure = async () => {
      slow.emit('asked');
      await answered;
      return null;
    };
    const loop = newAlerts({ measure, get: notAsked }).start();
    try {
      await asked;
      const id = await budgetOf('10000000000', { thresholds: [100] });
      await until('the threshold to fire', async () => {
        const { rows } = await one.engine.alerts.history.query({ rule: `budget:${id}` });
        return rows.length === 1;
      });
    } finally {
      slow.emit('answered');
      await loop.stop();
    }
  });

  test('of a budget fires on amounts, percents and forecasts', async () => {
    const start = clock.now;
    clock.now = Date.parse('2026-11-16T00:00:00Z');
    const target = await budgetOf('6000000000');
    const rule = (condition: object) =>
      one.engine.alerts.create.mutate({ name: 'rule', on: 'budget', target, condition });
    const rules = [
      await rule({ above: '5.9' }),
      await rule({ above: '6' }),
      await rule({ above: '60', percentOf: 'limit' }),
      await rule({ above: '60.1', percentOf: 'limit' }),
      await rule({ forecastAbove: '11.9' }),
      await rule({ forecastAbove: '12' }),
    ];
    const fires = await Promise.all(rules.map(async ({ id }) => (await one.engine.alerts.test.query({ id })).fires));
    expect(fires).toEqual([true, false, true, false, true, false]);
    await Promise.all([one.alerts.run(), other.alerts.run()]);
    const { rows } = await one.engine.alerts.history.query({ rule: rules[4]!.id });
    expect(rows).toMatchObject([{ event: 'alert.fired', value: '12', threshold: '11.9' }]);
    await expect(rule({ below: '1' })).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
    clock.now = start;
  });

  test('of a budget without a limit, or above 0 %, fires once something is spent', async () => {
    const target = await budgetOf('0');
    await stores.client.query('update budgets set "limit" = 0 where id = $1', [target]);
    await stores.client.query('update budget_list set version = version + 1');
    const none = await budgetOf('0');
    const rule = (of: string, above: string) =>
      one.engine.alerts.create.mutate({
        ...{ name: 'rule', on: 'budget', target: of },
        condition: { above, percentOf: 'limit' },
      });
    const rules = [await rule(target, '100'), await rule(none, '0')];
    const fires = async () =>
      Promise.all(rules.map(async ({ id }) => (await one.engine.alerts.test.query({ id })).fires));
    expect(await fires()).toEqual([false, false]);
    for (const id of [target, none]) await spend(id, '1');
    expect(await fires()).toEqual([true, true]);
  });

  test('watches what its target names, however that is written', async () => {
    const budget = await budgetOf('6000000000');
    const condition = { above: '5' };
    const created = await one.engine.alerts.create.mutate({
      ...{ name: 'rule', on: 'budget', target: budget.toUpperCase(), condition },
    });
    expect(created.target).toBe(budget);
    expect(await one.engine.alerts.test.query({ id: created.id.toUpperCase() })).toMatchObject({ fires: true });
    // Keys of meters and merchants may look like ids, and are names.
    const id = 'ABCDEF01-2345-4789-8BCD-EF0123456789';
    await stores.db.meters.create({ key: id, aggregation: 'COUNT' }, 'admin');
    for (const rule of [
      { on: 'meter', target: id, condition },
      { on: 'meter', target: `${'é'.repeat(64)}/cost`, condition },
      { on: 'silence', target: id, condition: { minutes: 1 } },
    ] as const)
      expect(await one.engine.alerts.create.mutate({ name: 'rule', ...rule })).toMatchObject({ target: rule.target });
  });

  test('is refused if its target can be of no merchant, or one of its webhooks does not exist', async () => {
    const create = (on: 'meter' | 'silence', target: string, webhookIds: string[] = []) =>
      one.engine.alerts.create.mutate({
        ...{ name: 'rule', on, target, webhookIds },
        condition: on === 'meter' ? { above: '1' } : { minutes: 1 },
      });
    for (const [on, target] of [
      ['meter', '/cost'],
      ['meter', 'acme /cost'],
      ['meter', `${'m'.repeat(129)}/cost`],
      ['silence', 'm'.repeat(129)],
    ] as const)
      await expect(create(on, target)).rejects.toMatchObject({
        data: { code: 'INVALID_INPUT' },
        message: expect.stringMatching(/^target: Expected/),
      });
    const [{ id }, gone] = [
      await one.engine.webhooks.create.mutate({ url }),
      await one.engine.webhooks.create.mutate({ url }),
    ];
    const rule = await create('silence', 'acme', [id.toUpperCase(), gone.id]);
    expect(rule.webhookIds).toEqual([id, gone.id]);
    await one.engine.webhooks.remove.mutate({ id: gone.id });
    const refused = { data: { code: 'NOT_FOUND' }, message: `There is no webhook ${gone.id}.` };
    await expect(create('silence', 'acme', [gone.id])).rejects.toMatchObject(refused);
    const other = await create('silence', 'acme');
    const update = (change: { id: string; webhookIds: string[] }) => one.engine.alerts.update.mutate(change);
    await expect(update({ id: other.id, webhookIds: [gone.id] })).rejects.toMatchObject(refused);
    // What was removed since may stay, so that the others can be changed.
    expect(await update({ id: rule.id, webhookIds: [gone.id] })).toMatchObject({ webhookIds: [gone.id] });
  });

  test('of silence fires once for each silence, and resolves when usage comes', async () => {
    const alerts = newAlerts();
    const rule = await one.engine.alerts.create.mutate({
      ...{ name: 'quiet', on: 'silence', target: 'quiet-co', condition: { minutes: 60 } },
    });
    const event = (id: string, time: number) =>
      stores.db.journal.append({
        source: 'direct',
        lines: [
          {
            ...{ merchant_id: 'quiet-co', date: new Date(time).toISOString().slice(0, 10), id, time, requests: '1' },
            origin: 'direct',
          },
        ],
      });
    await event('a', clock.now - 61 * 60_000);
    const history = async () => (await one.engine.alerts.history.query({ rule: rule.id })).rows;
    await alerts.run();
    expect(await history()).toMatchObject([{ value: '61', resolvedAt: null }]);
    await event('b', clock.now);
    // A process checks slow rules once a minute; a new process checks at once.
    const next = newAlerts();
    await next.run();
    expect(await history()).toMatchObject([{ value: '61', resolvedAt: expect.any(String) }]);
  });

  test('of silence flushes only usage of merchants that seem to be silent since its last check', async () => {
    const [silent, never, busy] = ['silent-co', 'never-co', 'busy-co'];
    for (const target of [silent, never, busy])
      await one.engine.alerts.create.mutate({
        ...{ name: target, on: 'silence', target, condition: { minutes: 60 } },
      });
    const times = { [silent]: clock.now - 61 * 60_000, [busy]: clock.now - 59 * 60_000 };
    for (const [merchant_id, time] of Object.entries(times))
      await stores.db.journal.append({
        source: 'direct',
        lines: [
          {
            ...{ merchant_id, date: new Date(time).toISOString().slice(0, 10), id: 'a', time, requests: '1' },
            origin: 'direct',
          },
        ],
      });
    const flushed: (string | null)[] = [];
    await newAlerts(undefined, flushed).run();
    await newAlerts(undefined, flushed).run();
    expect(flushed).toEqual([silent]);
    expect((await one.engine.alerts.history.query()).rows.filter(({ text }) => text.includes(silent))).toHaveLength(1);
  });

  test('of many meters flush all usage once, and that of each merchant only where that left out some', async () => {
    for (const target of ['one-co/cost', 'two-co/requests', 'three-co/requests'])
      await one.engine.alerts.create.mutate({ name: target, on: 'meter', target, condition: { above: '1' } });
    const flushed: (string | null)[] = [];
    await newAlerts(undefined, flushed).run();
    expect(flushed).toEqual([null]);
    await newAlerts(undefined, flushed, (merchantId) => merchantId !== null).run();
    expect(flushed.slice(1, 2)).toEqual([null]);
    expect(flushed.slice(2).sort()).toEqual(['one-co', 'three-co', 'two-co']);
  });

  test('of a meter is checked for the day of the flush, where that lasts until the next day', async () => {
    const start = clock.now;
    const day = (at: number) => new Date(at).toISOString().slice(0, 10);
    for (const time of [start, start + 24 * HOUR_MS])
      await stores.db.journal.append({
        source: 'direct',
        lines: [
          {
            ...{ merchant_id: 'midnight', date: day(time), id: day(time), time },
            ...{ requests: '5', origin: 'direct' },
          },
        ],
      });
    const { id } = await one.engine.alerts.create.mutate({
      ...{ name: 'midnight', on: 'meter', target: 'midnight/requests', condition: { above: '3' } },
    });
    await one.engine.alerts.create.mutate({
      ...{ name: 'two share a flush', on: 'meter', target: 'midnight/cost', condition: { above: '3' } },
    });
    const flushUntilTomorrow = () => {
      clock.now = start + 24 * HOUR_MS;
      return true;
    };
    await newAlerts(undefined, [], flushUntilTomorrow).run();
    clock.now = start;
    const { rows } = await one.engine.alerts.history.query({ rule: id });
    expect(rows.map(({ periodStart }) => periodStart.slice(0, 10))).toEqual([day(start)]);
  });

  test('of silence waits for no custom metric', async () => {
    const metric = await one.engine.custom.create.mutate({
      ...{ name: 'endless', metricType: 'COUNT', dataSource: 'usage', calculationFormula: 'COUNT(*)' },
      visibility: 'ORGANIZATION',
    });
    const condition = { above: '1' };
    for (const name of ['one', 'another', 'a third'])
      await one.engine.alerts.create.mutate({ name, on: 'custom', target: metric.id, condition });
    const { id } = await one.engine.alerts.create.mutate({
      ...{ name: 'quiet', on: 'silence', target: 'late-co', condition: { minutes: 60 } },
    });
    const time = clock.now - 61 * 60_000;
    const date = new Date(time).toISOString().slice(0, 10);
    const line = { merchant_id: 'late-co', date, id: 'a', time, requests: '1', origin: 'direct' };
    await stores.db.journal.append({ source: 'direct', lines: [line] });
    let answer = () => {};
    const answered = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const measure = () => answered.then(notAsked);
    const loops = newAlerts({ measure, get: notAsked }).start();
    await until('the rule on silence to fire', async () => {
      return (await one.engine.alerts.history.query({ rule: id })).rows.length;
    });
    answer();
    await loops.stop().catch(() => {});
  });

  test('of a meter fires once a day, for one merchant or for all, and resolves below it', async () => {
    const definition = { key: 'alerted', aggregation: 'SUM', metricType: 'gpu_hours', scale: 2 } as const;
    await stores.db.meters.create(definition, 'admin');
    const record = (merchantId: string, id: string, units: string) =>
      stores.db.journal.append({
        source: 'direct',
        lines: [
          {
            ...{ merchant_id: merchantId, date: new Date(clock.now).toISOString().slice(0, 10), id, time: clock.now },
            ...{ requests: '1', metrics: { gpu_hours: units }, origin: 'direct' },
          },
        ],
      });
    const rule = (target: string, condition: object) =>
      one.engine.alerts.create.mutate({ name: target, on: 'meter', target, condition });
    const [all, acme, below, builtIn] = [
      await rule('alerted', { above: '2.5' }),
      await rule('acme/alerted', { above: '2.5' }),
      await rule('acme/alerted', { below: '1.3' }),
      await rule('globex/requests', { above: '1' }),
    ];
    /** What fired and is not over; a new process checks slow rules at once. */
    const fired = async () => {
      await Promise.all([newAlerts(), newAlerts()].map((each) => each.run()));
      const { rows } = await one.engine.alerts.history.query();
      return [all, acme, below, builtIn].map(({ id }) =>
        rows.filter((row) => row.rule === id && row.resolvedAt === null).map(({ value }) => value),
      );
    };
    await record('acme', 'm1', '125');
    await record('globex', 'm2', '125');
    expect(await fired()).toEqual([[], [], ['1.25'], []]);
    await record('globex', 'm3', '1');
    expect(await fired()).toEqual([['2.51'], [], ['1.25'], ['2']]);
    await record('acme', 'm4', '126');
    expect(await fired()).toEqual([['2.51'], ['2.51'], [], ['2']]);
    // A day without usage has no value, and no value is not 0.
    const start = clock.now;
    clock.now += 24 * HOUR_MS;
    for (const measure of ['requests', 'total_tokens']) await rule(`globex/${measure}`, { below: '5' });
    const { rows } = await one.engine.alerts.history.query();
    await fired();
    expect((await one.engine.alerts.history.query()).rows.length).toBe(rows.length);
    await record('globex', 'm5', '1');
    await fired();
    const [latest, ...others] = (await one.engine.alerts.history.query()).rows;
    expect([latest?.text, others.length]).toEqual(['globex/requests: 1 is below 5.', rows.length]);
    const paged: unknown[] = [];
    let cursor: string | null | undefined;
    do {
      const page = await one.engine.alerts.history.query({ limit: 2, ...(cursor && { cursor }) });
      paged.push(...page.rows);
      cursor = page.nextCursor;
    } while (cursor !== null);
    expect(paged).toEqual([latest, ...others]);
    const { nextCursor } = await one.engine.alerts.history.query({ limit: 1 });
    await expect(one.engine.alerts.history.query({ rule: all.id, cursor: nextCursor! })).rejects.toMatchObject({
      data: { code: 'INVALID_CURSOR' },
    });
    clock.now = start;
    await expect(rule('acme/unheard_of', { above: '1' })).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
  });

  test('fires for the period before, once, where it passed its limit after the last check', async () => {
    const start = clock.now;
    const record = (id: string, time: number) =>
      stores.db.journal.append({
        source: 'direct',
        lines: [
          {
            ...{ merchant_id: 'late', date: new Date(time).toISOString().slice(0, 10), id, time },
            ...{ requests: '5', origin: 'direct' },
          },
        ],
      });
    await record('before', start - 24 * HOUR_MS);
    const budget = await budgetOf('0', { period: 'day' });
    const create = (on: 'meter' | 'budget', target: string) =>
      one.engine.alerts.create.mutate({ name: target, on, target, condition: { above: '3' } });
    const rules = [await create('meter', 'late/requests'), await create('budget', budget)];
    const engines = [newAlerts(), newAlerts()];
    /** The days of which each rule fired; a process checks slow rules at once when it is new. */
    const fired = async (of = engines) => {
      await Promise.all(of.map((each) => each.run()));
      const { rows } = await one.engine.alerts.history.query();
      return rules.map(({ id }) =>
        rows.filter(({ rule }) => rule === id).map(({ periodStart, value }) => `${periodStart.slice(0, 10)} ${value}`),
      );
    };
    // What was used before the rules were made is no concern of theirs.
    expect(await fired([engines[0]!])).toEqual([[], []]);
    await record('now', start);
    await spend(budget, '4000000000', 'day');
    clock.now += 24 * HOUR_MS;
    const today = new Date(start).toISOString().slice(0, 10);
    expect(await fired([engines[1]!])).toEqual([[`${today} 5`], [`${today} 4`]]);
    clock.now += 24 * HOUR_MS;
    expect(await fired()).toEqual([[`${today} 5`], [`${today} 4`]]);
    clock.now = start;
  });

  test('of a budget fires for no period that was over before its threshold, its limit or its rule was set', async () => {
    const start = clock.now;
    const id = await budgetOf('6000000000', { thresholds: [80], period: 'day' });
    const target = await budgetOf('6000000000', { period: 'day' });
    const rule = await one.engine.alerts.create.mutate({
      ...{ name: 'rule', on: 'budget', target, condition: { above: '80', percentOf: 'limit' } },
    });
    const yesterday = new Date(start).toISOString().slice(0, 10);
    clock.now += 24 * HOUR_MS;
    const today = new Date(clock.now).toISOString().slice(0, 10);
    /** The days and thresholds that fired, also by a process that has just started. */
    const fired = async () => {
      for (const alerts of [one.alerts, newAlerts(), other.alerts]) await alerts.run();
      const { rows } = await one.engine.alerts.history.query();
      return [`budget:${id}`, rule.id].map((wanted) =>
        rows
          .filter((row) => row.rule === wanted)
          .map(({ periodStart, threshold }) => `${periodStart.slice(0, 10)} ${threshold}`)
          .sort(),
      );
    };
    const update = (budget: string, change: Parameters<typeof stores.db.budgets.update>[1]) =>
      stores.db.budgets.update(budget, change, new Date(clock.now));
    await update(id, { thresholds: [50, 80] });
    expect(await fired()).toEqual([[], []]);
    await update(id, { limit: '5000000000' });
    await update(target, { limit: '5000000000' });
    expect(await fired()).toEqual([[], []]);
    // What was in force before counts for usage that becomes known late, also where it is set again.
    clock.now = start;
    await spend(id, '9000000000', 'day');
    await spend(target, '9000000000', 'day');
    await update(id, { limit: '4000000000' });
    await update(target, { limit: '4000000000' });
    clock.now += 24 * HOUR_MS;
    await update(id, { limit: '4000000000', thresholds: [80, 50] });
    expect(await fired()).toEqual([[`${yesterday} 50`, `${yesterday} 80`], [`${yesterday} 80%`]]);
    await spend(id, '2000000000', 'day');
    expect(await fired()).toEqual([[`${today} 50`, `${yesterday} 50`, `${yesterday} 80`].sort(), [`${yesterday} 80%`]]);
    clock.now = start;
  });

  test('of rejections fires once a day for its source, as source.rejected', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url, events: ['source.rejected'] });
    const rule = await one.engine.alerts.create.mutate({
      ...{ name: 'bad spans', on: 'rejections', target: 'otlp', condition: { above: '1' } },
    });
    const reject = (source: string, at: number) =>
      stores.db.sources.add(
        [
          {
            source,
            ...{ accepted: 0, duplicates: 0, rejected: 1, skipped: 0 },
            firstSeenAt: new Date(at),
            lastSeenAt: new Date(at),
          },
        ],
        [{ source, at: new Date(at), merchantId: null, eventId: null, code: 'INVALID_ENTRY', message: 'no model' }],
      );
    await reject('otlp', clock.now);
    await reject('otlp', clock.now - 24 * HOUR_MS);
    await reject('stripe', clock.now);
    const test = async () => (await one.engine.alerts.test.query({ id: rule.id })).fires;
    expect(await test()).toBe(false);
    await reject('otlp', clock.now);
    expect(await test()).toBe(true);
    await Promise.all([one.alerts.run(), other.alerts.run()]);
    await one.deliver.run();
    expect(received).toHaveLength(1);
    expect(verify(received[0]!, webhook.secret!)).toMatchObject({
      ...{ type: 'source.rejected', data: { target: 'otlp', value: '2' } },
    });
    await expect(
      one.engine.alerts.create.mutate({ name: 'r', on: 'rejections', target: 'otlp', condition: { above: '100' } }),
    ).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  });

  test('of drift fires once a day with what reconciliation found, as drift.found', async () => {
    const webhook = await one.engine.webhooks.create.mutate({ url, events: ['drift.found'] });
    const rule = await one.engine.alerts.create.mutate({ name: 'drift', on: 'drift', condition: { above: '1' } });
    const found = (numbers: number) =>
      stores.db.checks.noteDrift(new Date(clock.now), {
        numbers,
        examples: [{ merchantId: 'acme', date: '2026-11-20', what: 'cost' }],
      });
    const measured = async () => one.engine.alerts.test.query({ id: rule.id });
    expect(await measured()).toMatchObject({ fires: false, value: '0' });
    await found(1);
    expect(await measured()).toMatchObject({ fires: false, value: '1' });
    await found(3);
    await found(2);
    await Promise.all([one.alerts.run(), other.alerts.run()]);
    await one.deliver.run();
    expect(received).toHaveLength(1);
    expect(verify(received[0]!, webhook.secret!)).toMatchObject({
      ...{ type: 'drift.found', text: expect.stringContaining('acme on 2026-11-20'), data: { target: '', value: '3' } },
    });
    await expect(
      one.engine.alerts.create.mutate({ name: 'd', on: 'drift', target: 'acme', condition: { above: '1' } }),
    ).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  });

  test.each(['x', '__proto__', crypto.randomUUID()])(
    'is not of the custom metric %s, which does not exist',
    async (target) => {
      const rule = { name: 'none', on: 'custom' as const, target, condition: { above: '1' } };
      await expect(one.engine.alerts.create.mutate(rule)).rejects.toMatchObject({ data: { code: 'NOT_FOUND' } });
    },
  );

  test('of a custom metric fires once a day', async () => {
    const metric = await one.engine.custom.create.mutate({
      ...{ name: 'events', metricType: 'COUNT', dataSource: 'usage', calculationFormula: 'COUNT(*) + 5' },
      visibility: 'ORGANIZATION',
    });
    const rule = await one.engine.alerts.create.mutate({
      ...{ name: 'many', on: 'custom', target: metric.id, condition: { above: '4.5' } },
    });
    await Promise.all([one.alerts.run(), other.alerts.run()]);
    const { rows } = await one.engine.alerts.history.query({ rule: rule.id });
    expect(rows).toMatchObject([{ event: 'alert.fired', threshold: '4.5' }]);
    // Its checks, one a minute, would hide who changed and computed it.
    const trail = await one.engine.custom.audit.query({ id: metric.id });
    expect(trail.rows.map(({ action }) => action)).toEqual(['create']);
  });

  test('stays removed, whoever changes it meanwhile', async () => {
    const { id } = await one.engine.alerts.create.mutate({
      ...{ name: 'quiet', on: 'silence', target: 'acme', condition: { minutes: 5 } },
    });
    await stores.client.query('begin');
    await stores.client.query('update alerts set removed_at = now() where id = $1', [id]);
    const renamed = one.engine.alerts.update.mutate({ id, name: 'loud' }).catch((error: Error) => error.message);
    await until('the change to wait for the removal', async () => {
      const text = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
      return (await stores.client.query(text)).rowCount;
    });
    await stores.client.query('commit');
    expect(await renamed).toBe(`There is no alert rule ${id}.`);
    expect((await one.engine.alerts.list.query()).rows).toEqual([]);
  });
});

test.each([
  ['1', '1.0', 0],
  ['-1.5', '1', -1],
  ['10', '9.99', 1],
  ['-2', '-1', -1],
])('%s compares to %s as %i', (a, b, expected) => {
  expect(compare(a, b)).toBe(expected);
});
