import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MINUTE_MS } from '@tally/contracts';
import { type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { Webhook } from 'standardwebhooks';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { ADMIN, type Engine, prepareStores, type Stores } from './start.ts';

/** While the test holds this lock, whoever fires at the threshold in `struck` waits in the middle of its statement. */
const LOCK = 330;

let stores: Stores;
const clock = { now: Date.now() };
let survivors: Engine[];
/** Ended after each test, also one that fails before it kills it. */
let latestVictim: ServiceProcess | undefined;
let webhookId: string;
let secret: string;
let receiver: Server;
/** Messages that the receiver got; with `isSilent` it answers none of them. */
const received: { id: string; body: string }[] = [];
let isSilent = false;

beforeAll(async () => {
  stores = await prepareStores();
  const settings = { WEBHOOK_ALLOW_PRIVATE: 'true' };
  survivors = await Promise.all([stores.start(settings, () => clock.now), stores.start(settings, () => clock.now)]);
  receiver = createServer((request, response: ServerResponse) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      new Webhook(secret).verify(body, request.headers as Record<string, string>);
      received.push({ id: String(request.headers['webhook-id']), body });
      if (!isSilent) response.writeHead(204).end();
    });
  }).listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`;
  const webhook = await survivors[0]!.engine.webhooks.create.mutate({ url });
  [webhookId, secret] = [webhook.id, webhook.secret!];
  await stores.client.query(`
    create table struck (threshold text);
    insert into struck values ('none');
    create function wait_for_the_test() returns trigger language plpgsql as $$
      begin
        if new.threshold in (select threshold from struck) then perform pg_advisory_xact_lock(${LOCK}); end if;
        return new;
      end $$;
    create trigger wait_for_the_test before insert on alert_firings for each row execute function wait_for_the_test()`);
});
afterAll(async () => {
  receiver.closeAllConnections();
  receiver.close();
  await stores.close();
});

afterEach(async () => {
  await latestVictim?.kill();
  await stores.client.query('select pg_advisory_unlock_all()');
  await stores.client.query(`update budgets set removed_at = now() where removed_at is null`);
  await stores.client.query('update budget_list set version = version + 1');
});

/** Starts an engine as a process of its own, with its loops. */
async function startVictim(): Promise<ServiceProcess> {
  latestVictim = await startServiceProcess('metrics-engine', {
    ...{ DATABASE_URL: stores.store.url, REDIS_URL: stores.redis.url, TALLY_ADMIN_KEY: ADMIN },
    ...{ USAGE_INGEST_URL: 'http://127.0.0.1:1', WEBHOOK_ALLOW_PRIVATE: 'true' },
  });
  return latestVictim;
}

/** Stores a budget that has reached all its thresholds. */
async function budgetOverItsLimit(): Promise<string> {
  const { rows } = await stores.client.query(
    `insert into budgets (name, merchant_id, user_id, api_key, model, measure, "limit", period, time_zone, enforcement,
       when_unavailable, thresholds, created_by)
     values ('All', 'acme', '', '', '', 'cost', 10, 'total', 'UTC', 'soft', 'allow', '{50,80,100}', 'admin')
     returning id`,
  );
  await stores.client.query('update budget_list set version = version + 1');
  await stores.client.query(`insert into budget_spend values ($1, to_timestamp(0), 10)`, [rows[0].id]);
  return rows[0].id;
}

async function waitingBackends(): Promise<number[]> {
  const { rows } = await stores.client.query(
    `select pid from pg_locks where locktype = 'advisory' and objid = $1 and not granted
       and database = (select oid from pg_database where datname = current_database())`,
    [LOCK],
  );
  return rows.map(({ pid }) => pid);
}

const firedOf = async (budgetId: string) => {
  const { rows } = await survivors[0]!.engine.alerts.history.query({ rule: `budget:${budgetId}` });
  return rows.map(({ threshold }) => Number(threshold)).sort((a, b) => a - b);
};
const checkAgain = () => Promise.all([...survivors, ...survivors].map((engine) => engine.alerts.run()));
const messagesOf = (budgetId: string) => received.filter(({ body }) => body.includes(budgetId)).map(({ id }) => id);

test.each([
  ['50', []],
  ['80', [50]],
])('an alert fires once where an engine is killed in the middle of firing at %s percent', async (threshold, before) => {
  const budgetId = await budgetOverItsLimit();
  await stores.client.query('update struck set threshold = $1', [threshold]);
  await stores.client.query('select pg_advisory_lock($1)', [LOCK]);
  const victim = await startVictim();
  let backends: number[] = [];
  await until('the engine fires', async () => {
    backends = await waitingBackends();
    return backends.length > 0;
  });
  await victim.kill();
  expect(await firedOf(budgetId)).toEqual(before);
  await stores.client.query('select pg_terminate_backend($1::int, 60000)', [backends[0]]);
  await stores.client.query('select pg_advisory_unlock($1)', [LOCK]);
  await until('nobody fires', async () => (await waitingBackends()).length === 0);
  await checkAgain();
  await checkAgain();
  expect(await firedOf(budgetId)).toEqual([50, 80, 100]);
  // The dead engine may have taken a message, and may have sent it.
  clock.now = Date.now() + 2 * MINUTE_MS;
  await Promise.all(survivors.map(({ deliver }) => deliver.run()));
  expect(new Set(messagesOf(budgetId)).size).toBe(3);
});

test('a message keeps its id where an engine is killed after the receiver got it', async () => {
  isSilent = true;
  const budgetId = await budgetOverItsLimit();
  const victim = await startVictim();
  await until('the receiver has all messages', () => messagesOf(budgetId).length === 3);
  await victim.kill();
  isSilent = false;
  const first = new Set(messagesOf(budgetId));
  clock.now = Date.now() + 2 * MINUTE_MS;
  await checkAgain();
  await Promise.all(survivors.map(({ deliver }) => deliver.run()));
  expect(await firedOf(budgetId)).toEqual([50, 80, 100]);
  expect(first.size).toBe(3);
  expect(messagesOf(budgetId)).toHaveLength(6);
  expect(new Set(messagesOf(budgetId))).toEqual(first);
  const { rows } = await survivors[0]!.engine.webhooks.deliveries.query({ webhookId, status: 'pending' });
  expect(rows).toEqual([]);
});
