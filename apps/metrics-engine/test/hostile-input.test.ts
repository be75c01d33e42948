import { engine as contract, isProcedure, type Procedure } from '@tally/contracts';
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
    versions: { id },
    values: { id, merchantId: 'a', limit: 5 },
    audit: { id, limit: 5, cursor: '7' },
    remove: { id: NOBODY },
  },
});

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

test('whatever is sent to a procedure, it is answered or refused with a code of its own, and goes on', async () => {
  const made = await engine.engine.custom.create.mutate({
    name: 'n',
    metricType: 'SUM',
    dataSource: 'events',
    calculationFormula: 'SUM(cost)',
    visibility: 'PUBLIC',
  });
  const inputs: unknown = inputsFor(made.id);
  for (const [path, procedure] of procedures(contract)) {
    if (procedure.kind === 'subscription') continue;
    const sound = path.split('.').reduce((at, name) => (at as Record<string, unknown>)[name], inputs) as object;
    expect(sound, path).toBeDefined();
    const fields = Object.keys(sound).flatMap((field) => HOSTILE.map((hostile) => ({ ...sound, [field]: hostile })));
    for (const input of [undefined, ...HOSTILE, ...fields]) {
      const { status } = await call(path, procedure, input);
      expect(status, `${path} ${JSON.stringify(input)}`).toBeLessThan(500);
    }
  }
});
