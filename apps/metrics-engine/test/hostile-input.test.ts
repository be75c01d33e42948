import { engine as contract, ERRORS, type ErrorCode, isProcedure, type Procedure } from '@tally/contracts';
import { redisReady } from '@tally/service';
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

const HOSTILE: unknown[] = [
  null,
  '',
  'a\u0000b',
  '\ud800',
  '💥',
  'constructor',
  'x'.repeat(5_000),
  "'; drop table usage_daily --",
  '*',
  '-0',
  '1e400',
  'Infinity',
  '999999999999999.999999999',
  -1,
  1.5,
  1e21,
  2 ** 53,
  true,
  '0999-12-31',
  '1000-01-01',
  '9998-12-31',
  '9999-12-31',
  '2026-02-29',
  [],
  {},
  [[]],
  ['a', null],
  ['unknown'],
  ['date', 'date'],
  JSON.parse('{"__proto__":"x"}'),
  { model: 'unknown' },
  { requests: 1e30 },
  { date: '2026-02-30' },
  'events',
  'TEAM',
  'MEDIAN',
  'MAX(time)',
  'SUM(cost) % 0',
  'SUM(999999999999999999 * 999999999999999999 * cost)',
];

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
const NOBODY = '7f3d1c1e-0000-4000-8000-000000000000';
const rollup = {
  run: { date: '2026-03-01' },
  backfill: RANGE,
  list: {
    ...RANGE,
    merchantId: 'a',
    entityType: 'user',
    entityIds: ['u'],
    metricTypes: ['cost'],
    limit: 5,
    cursor: '',
  },
};

/** An input of every procedure that is called and answered; each field of it is made hostile in turn. */
const inputsFor = (id: string) => ({
  rollups: { daily: rollup, weekly: rollup, monthly: rollup, refresh: {} },
  jobs: {
    log: { limit: 3, cursor: '' },
    schedules: {},
    failed: { limit: 3 },
    run: { name: 'cleanup' },
    retry: { id: 'none' },
  },
  realtime: {
    increment: { name: 'counter', by: '1', labels: { a: 'b' }, merchantId: 'm' },
    gauge: { name: 'gauge', value: '1', unit: 'ms', labels: {} },
    observe: { name: 'histogram', value: '1', windowSeconds: 60 },
    mark: { name: 'rate', count: 2, windowSeconds: 60 },
    get: { name: 'counter', labels: { a: 'b' }, merchantId: 'm', windowSeconds: 5 },
    list: { merchantId: 'm', limit: 2, cursor: '' },
    reconcile: {},
  },
  custom: {
    create: { ...DEFINITION, name: 'n', description: 'd', teamId: 't' },
    update: { ...DEFINITION, id, name: 'n', description: 'd' },
    test: { ...DEFINITION, ...RANGE },
    estimate: { ...DEFINITION, ...RANGE },
    calculate: { id, version: 1, merchantId: 'a', ...RANGE },
    get: { id, version: 1 },
    list: { limit: 5, cursor: id, search: 'n' },
    versions: { id, limit: 5, cursor: '7' },
    values: { id, merchantId: 'a', limit: 5 },
    audit: { id, limit: 5, cursor: '7' },
    remove: { id: NOBODY },
    sources: {
      register: {
        name: 'theirs',
        view: 'app.theirs',
        columns: [{ name: 'seats', type: 'number' }],
        merchantColumn: 'account',
        dateColumn: 'day',
      },
      list: {},
      remove: { name: 'theirs' },
    },
  },
});

/** Hostile formulas that are sound all the same. */
const SOUND_FORMULAS: unknown[] = ['SUM(cost) % 0', 'SUM(999999999999999999 * 999999999999999999 * cost)'];

async function call(path: string, { kind }: Procedure, input: unknown) {
  const headers = { authorization: `Bearer ${ADMIN}`, 'content-type': 'application/json' };
  const text = JSON.stringify(input);
  const query = `/trpc/${path}?input=${encodeURIComponent(text ?? '')}`;
  return kind === 'query'
    ? engine.app.request(query, { headers })
    : engine.app.request(`/trpc/${path}`, { method: 'POST', headers, body: text ?? '' });
}

function procedures(node: object, before = ''): [path: string, procedure: Procedure][] {
  return Object.entries(node).flatMap(([name, each]: [string, Procedure | object]) =>
    isProcedure(each as Procedure) ? [[`${before}${name}`, each as Procedure]] : procedures(each, `${before}${name}.`),
  );
}

const CALLED = procedures(contract).filter(([, { kind }]) => kind !== 'subscription');
const soundInput = (path: string): object =>
  path.split('.').reduce((at: unknown, name) => (at as Record<string, unknown>)[name], inputsFor(id)) as object;

let id: string;
beforeAll(async () => {
  ({ id } = await engine.engine.custom.create.mutate({ ...DEFINITION, name: 'n' } as never));
});

test.each(CALLED)('%s answers what its contract allows, and refuses everything else with a code', async (path, it) => {
  const sound = soundInput(path);
  const ofFields = Object.keys(sound).flatMap((field) =>
    HOSTILE.map((hostile) => ({ field, hostile, input: { ...sound, [field]: hostile } as unknown })),
  );
  const whole = [undefined, ...HOSTILE].map((input) => ({ field: '', hostile: input, input }));
  for (const { field, hostile, input } of [...whole, ...ofFields]) {
    const asked = `${path} ${JSON.stringify(input)}`;
    const response = await call(path, it, input);
    const body = (await response.json()) as { result?: { data: unknown }; error?: { data: { code: string } } };
    const allowed = it.input.safeParse(input === undefined ? undefined : JSON.parse(JSON.stringify(input))).success;
    if (body.error) {
      const { code } = body.error.data;
      expect(Object.keys(ERRORS), asked).toContain(code);
      expect(response.status, asked).toBe(ERRORS[code as ErrorCode].status);
      if (allowed) expect(response.status, `${asked}: ${code}`).toBeLessThan(500);
      else expect(['INVALID_INPUT', 'INVALID_JSON', 'INVALID_DATE_FORMAT'], asked).toContain(code);
    } else {
      expect([response.status, allowed], asked).toEqual([200, true]);
      expect(it.output.safeParse(body.result!.data).success, asked).toBe(true);
      if (field === 'calculationFormula') expect(SOUND_FORMULAS, asked).toContain(hostile);
    }
  }
});

test('after all of that every table is there, and a sound call is answered', async () => {
  const { rows } = await stores.client.query(`select to_regclass('usage_daily') is not null as found`);
  expect(rows).toEqual([{ found: true }]);
  const { rows: listed } = await engine.engine.custom.list.query({ search: 'n' });
  expect(listed.length).toBeGreaterThan(0);
});
