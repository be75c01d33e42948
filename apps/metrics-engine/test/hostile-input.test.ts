import { engine as contract, ERRORS, type ErrorCode, type Procedure, proceduresOf } from '@tally/contracts';
import { redisReady } from '@tally/service';
import { callOf, type HostileRequest, hostileInputs, hostileRequests, soundInput } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN, type Engine, prepareStores, type Stores } from './start.ts';

let stores: Stores;
let engine: Engine;

beforeAll(async () => {
  stores = await prepareStores();
  engine = await stores.start();
  await redisReady(engine.redis);
});

afterAll(() => stores.close());

/** Values hostile to this service's computations, in every place too. */
const HOSTILE: unknown[] = [
  '*',
  'Infinity',
  1.5,
  '9999-12-31',
  ['a', null],
  ['unknown'],
  ['date', 'date'],
  { model: 'unknown' },
  { requests: 1e30 },
  { date: '2026-02-30' },
  'events',
  'TEAM',
];

const FORMULAS = [
  'constructor',
  '-0',
  '1e400',
  'Infinity',
  '*',
  'unknown',
  "'; drop table usage_daily --",
  'MEDIAN',
  'MAX(time)',
  'SUM(cost',
  'SUM(cost); select 1',
  'pg_sleep(9)',
  `${'('.repeat(900)}1`,
];
/** Hostile formulas that are valid all the same. */
const SOUND_FORMULAS = ['SUM(cost) % 0', 'SUM(999999999999999999 * 999999999999999999 * cost)'];

const RANGE = { startDate: '2026-03-01', endDate: '2026-03-02' };
const DEFINITION = {
  metricType: 'SUM',
  dataSource: 'events',
  calculationFormula: 'SUM(cost)',
  dimensions: ['model'],
  filters: { model: 'm' },
  aggregationMethod: 'SUM',
  visibility: 'PUBLIC',
};
const PAGE = {
  ...RANGE,
  merchantId: 'a',
  entityType: 'user',
  entityIds: ['u'],
  metricTypes: ['cost'],
  limit: 5,
};
const SOURCE = {
  name: 'theirs',
  view: 'app.theirs',
  columns: [{ name: 'seats', type: 'number', unit: 'seats' }],
  merchantColumn: 'account',
  dateColumn: 'day',
};
const NOBODY = '7f3d1c1e-0000-4000-8000-000000000000';

const RULE = { name: 'n', on: 'silence', target: 'acme', condition: { minutes: 60 } } as const;

let id: string;
let webhookId: string;
let alertId: string;
beforeAll(async () => {
  await stores.client.query(
    `
    create schema app;
    create view app.theirs as select 1::numeric as seats, 'a' as account, date '2026-03-01' as day;
    grant usage on schema app to tally_reader;
    grant select on app.theirs to tally_reader;
  `,
  );
  ({ id } = await engine.engine.custom.create.mutate({ ...DEFINITION, name: 'n' } as never));
  ({ id: webhookId } = await engine.engine.webhooks.create.mutate({ url: 'https://hooks.example.com' }));
  ({ id: alertId } = await engine.engine.alerts.create.mutate(RULE));
});

/** Valid inputs of procedures whose schema does not describe them. */
const known = (name: string): object[] =>
  ({
    'jobs.log': [{ limit: 3 }],
    'jobs.failed': [{ limit: 3 }],
    'rollups.daily.list': [PAGE],
    'rollups.weekly.list': [PAGE],
    'rollups.monthly.list': [PAGE],
    'realtime.increment': [{ name: 'counter', by: '1', labels: { a: 'b' }, merchantId: 'm' }],
    'realtime.gauge': [{ name: 'gauge', value: '1', unit: 'ms', labels: {} }],
    'realtime.observe': [
      { name: 'histogram', value: '1', windowSeconds: 60 },
      { name: 'histogram', values: ['1'], windowSeconds: 60 },
    ],
    'realtime.mark': [{ name: 'rate', count: 2, windowSeconds: 60 }],
    'realtime.get': [{ name: 'counter', labels: { a: 'b' }, merchantId: 'm' }],
    'realtime.list': [{ merchantId: 'm', limit: 2 }],
    'custom.create': [{ ...DEFINITION, name: 'n', description: 'd' }],
    'custom.update': [{ ...DEFINITION, id, name: 'n', description: 'd' }],
    'custom.test': [{ ...DEFINITION, ...RANGE }],
    'custom.estimate': [{ ...DEFINITION, ...RANGE }],
    'custom.calculate': [{ id, version: 1, merchantId: 'a', ...RANGE }],
    'custom.get': [{ id, version: 1 }],
    'custom.list': [{ limit: 5, search: 'n' }],
    'custom.versions': [{ id, limit: 5 }],
    'custom.values': [{ id, merchantId: 'a', limit: 5 }],
    'custom.audit': [{ id, limit: 5 }],
    'custom.remove': [{ id: NOBODY }],
    'alerts.create': [{ ...RULE, webhookIds: [webhookId] }],
    'alerts.update': [{ id: alertId, name: 'm', webhookIds: [webhookId] }],
    'alerts.test': [{ id: alertId }],
    'alerts.history': [{ rule: alertId, limit: 5 }],
    'alerts.remove': [{ id: NOBODY }],
    'webhooks.create': [{ url: 'https://hooks.example.com', events: ['alert.fired'] }],
    'webhooks.update': [{ id: webhookId, url: 'https://hooks.example.com/a', rotateSecret: true }],
    'webhooks.deliveries': [{ webhookId, status: 'failed', limit: 5 }],
    'webhooks.test': [{ id: webhookId }],
    'webhooks.replay': [{ id: NOBODY }],
    'webhooks.remove': [{ id: NOBODY }],
    'custom.sources.register': [SOURCE],
    'custom.sources.remove': [{ name: 'theirs' }],
  })[name] ?? [];

const isSubscription = ([, { kind }]: [string, Procedure]) => kind === 'subscription';
const CALLED = proceduresOf(contract).filter((each) => !isSubscription(each));
/** Procedures whose valid inputs name missing objects. */
const REFUSED = ['custom.remove', 'jobs.retry', 'alerts.remove', 'webhooks.replay', 'webhooks.remove'];

async function send({ path, init }: HostileRequest) {
  const headers = { authorization: `Bearer ${ADMIN}`, 'content-type': 'application/json', ...init.headers };
  const response = await engine.app.request(path, { ...init, headers });
  return { response, body: JSON.parse(await response.text()) as { result?: { data: unknown }; error?: Refusal } };
}
type Refusal = { data: { code: string } };

const REFUSALS = ['INVALID_INPUT', 'INVALID_JSON', 'INVALID_DATE_FORMAT'];

/** Checks that an error has one of our codes and its status. */
function expectRefusal({ response, body }: Awaited<ReturnType<typeof send>>, asked: string) {
  const { code } = body.error!.data;
  expect(Object.keys(ERRORS), asked).toContain(code);
  expect(response.status, asked).toBe(ERRORS[code as ErrorCode].status);
  expect(response.status, `${asked}: ${code}`).toBeLessThan(500);
  return code;
}

/** Returns true if the contract accepts an input after JSON. */
const isAllowed = (input: Procedure['input'], sent: unknown) =>
  input.safeParse(sent === undefined ? undefined : JSON.parse(JSON.stringify(sent))).success;

async function expectAnswer(name: string, { kind, input, output }: Procedure, sent: unknown) {
  const asked = `${name} ${JSON.stringify(sent)?.slice(0, 500)}`;
  const answer = await send(callOf(name, kind, sent));
  const allowed = isAllowed(input, sent);
  if (answer.body.error) {
    const code = expectRefusal(answer, asked);
    if (!allowed) expect(REFUSALS, asked).toContain(code);
    return code;
  }
  expect([answer.response.status, allowed], asked).toEqual([200, true]);
  const given = output.safeParse(answer.body.result!.data);
  expect(given.error?.issues ?? [], asked).toEqual([]);
  return undefined;
}

test.each(CALLED)('%s answers what its contract allows, and refuses everything else with a code', async (name, it) => {
  const sounds = known(name).length > 0 ? known(name) : [soundInput(it.input)];
  for (const sound of sounds) {
    const refused = await expectAnswer(name, it, sound);
    expect(refused, name).toBe(REFUSED.includes(name) ? 'NOT_FOUND' : undefined);
    for (const sent of hostileInputs(it.input, sound, HOSTILE)) await expectAnswer(name, it, sent);
  }
});

test.each(CALLED.filter(([, { rest }]) => rest))(
  'the REST paths of %s answer or refuse hostile text with a code',
  async (name, { input, rest = [] }) => {
    const [sound = soundInput(input)] = known(name);
    for (const each of rest) {
      const [first, ...others] = hostileRequests(each, input, sound);
      expect((await send(first!)).response.status).toBe(200);
      for (const request of others) {
        const answer = await send(request);
        const asked = `${each.path} ${JSON.stringify(request.sent)?.slice(0, 500)}`;
        if (answer.body.error) expectRefusal(answer, asked);
        else expect(answer.response.status, asked).toBe(200);
      }
    }
  },
);

test.each(proceduresOf(contract).filter(isSubscription))(
  '%s begins, or refuses hostile input with a code',
  async (name, { input }) => {
    const sound = { name: 'counter', labels: { a: 'b' }, merchantId: 'm' };
    for (const sent of [sound, ...hostileInputs(input, sound, HOSTILE)]) {
      const { path, init } = callOf(name, 'query', sent);
      const asked = `${name} ${JSON.stringify(sent)?.slice(0, 500)}`;
      const response = await engine.app.request(path, { ...init, headers: { authorization: `Bearer ${ADMIN}` } });
      if (response.status !== 200) {
        expectRefusal({ response, body: (await response.json()) as { error: Refusal } }, asked);
        continue;
      }
      const events = response.body!.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
      let text = '';
      while (!/^event: serialized-error\n|^data: .*\n\n$/m.test(text)) text += (await events.next()).value;
      await events.return?.();
      const [, refusal] = /^event: serialized-error\ndata: (.*)$/m.exec(text) ?? [];
      if (isAllowed(input, sent)) expect(refusal, asked).toBeUndefined();
      else expect(REFUSALS, asked).toContain((JSON.parse(refusal!) as { data: { code: string } }).data.code);
    }
  },
);

test.each(['custom.create', 'custom.update', 'custom.test', 'custom.estimate'])(
  '%s takes sound formulas only',
  async (name) => {
    const [, it] = CALLED.find(([each]) => each === name)!;
    const [sound] = known(name);
    const taken: string[] = [];
    for (const calculationFormula of [...FORMULAS, ...SOUND_FORMULAS])
      if ((await expectAnswer(name, it, { ...sound, calculationFormula })) === undefined)
        taken.push(calculationFormula);
    expect(taken).toEqual(SOUND_FORMULAS);
  },
);

test('after all of that every table is there, and a sound call is answered', async () => {
  const { rows } = await stores.client.query(`select to_regclass('usage_daily') is not null as found`);
  expect(rows).toEqual([{ found: true }]);
  const { rows: listed } = await engine.engine.custom.list.query({ search: 'n' });
  expect(listed.length).toBeGreaterThan(0);
});
