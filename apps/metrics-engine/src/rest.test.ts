import type { App } from '@tally/service';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN, prepareStores, type Stores } from '../test/start.ts';

let stores: Stores;
let app: App;

beforeAll(async () => {
  stores = await prepareStores();
  ({ app } = await stores.start());
});

afterAll(() => stores.close());

const call = async (path: string, init: RequestInit = {}) => {
  const headers = { authorization: `Bearer ${ADMIN}`, 'content-type': 'application/json', ...init.headers };
  const answer = await app.request(path, { ...init, headers });
  // biome-ignore lint/suspicious/noExplicitAny: an answer of any shape, looked at by the test.
  return { status: answer.status, body: (await answer.json()) as any };
};
const post = (path: string, body: unknown) => call(path, { method: 'POST', body: JSON.stringify(body) });

test.each(['daily', 'weekly', 'monthly'])('GET %s lists rollups with query parameters', async (grain) => {
  const range = 'startDate=2026-03-01&endDate=2026-03-31';
  const { status, body } = await call(
    `/api/admin/metrics/${grain}?${range}&entityType=user&entityIds=u1&entityIds=u2&limit=5`,
  );
  expect([status, body]).toEqual([200, { rows: [], nextCursor: null }]);
});

test('a definition is posted, listed and calculated', async () => {
  const made = await post('/api/admin/metrics/custom-definitions', {
    name: 'Active users',
    metricType: 'DISTINCT_COUNT',
    dataSource: 'usage',
    calculationFormula: 'COUNT(DISTINCT user_id)',
    visibility: 'PUBLIC',
  });
  expect(made).toMatchObject({ status: 200, body: { version: 1, name: 'Active users' } });
  const { body } = await call('/api/admin/metrics/custom-definitions?limit=5');
  expect(body.rows).toMatchObject([{ id: made.body.id }]);
  const range = { startDate: '2026-03-01', endDate: '2026-03-31' };
  const computed = await post('/api/admin/metrics/calculate', { id: made.body.id, ...range });
  expect(computed).toMatchObject({ status: 200, body: { value: '0', version: 1, cost: 'low' } });
});

test.each([
  [
    'no key',
    '/api/admin/metrics/weekly?startDate=2026-03-01&endDate=2026-03-31',
    { authorization: '' },
    401,
    'UNAUTHORIZED',
  ],
  [
    'a day that does not exist',
    '/api/admin/metrics/weekly?startDate=2026-02-30&endDate=2026-03-31',
    {},
    400,
    'INVALID_DATE_FORMAT',
  ],
  [
    'a limit that is no number',
    '/api/admin/metrics/weekly?startDate=2026-03-01&endDate=2026-03-31&limit=x',
    {},
    400,
    'INVALID_INPUT',
  ],

  [
    'a limit in hexadecimal',
    '/api/admin/metrics/weekly?startDate=2026-03-01&endDate=2026-03-31&limit=0x10',
    {},
    400,
    'INVALID_INPUT',
  ],
  [
    'an unknown parameter',
    '/api/admin/metrics/weekly?startDate=2026-03-01&endDate=2026-03-31&sql=1',
    {},
    400,
    'INVALID_INPUT',
  ],
  ...['__proto__', 'constructor', 'toString'].map(
    (name) =>
      [
        `a parameter ${name}`,
        `/api/admin/metrics/weekly?startDate=2026-03-01&endDate=2026-03-31&${name}=1`,
        {},
        400,
        'INVALID_INPUT',
      ] as const,
  ),
  [
    'two days to begin with',
    '/api/admin/metrics/weekly?startDate=2026-03-01&startDate=2026-03-02&endDate=2026-03-31',
    {},
    400,
    'INVALID_INPUT',
  ],
  ['two limits', '/api/admin/metrics/custom-definitions?limit=5&limit=6', {}, 400, 'INVALID_INPUT'],
] as const)('a request with %s is refused with the code of its procedure', async (_, path, headers, status, code) => {
  const answer = await call(path, { headers });
  expect([answer.status, answer.body.error.data.code]).toEqual([status, code]);
});

test('the document describes the procedures and the REST paths of this service', async () => {
  const { status, body } = await call('/openapi.json', { headers: { authorization: '' } });
  expect([status, body.openapi]).toEqual([200, '3.1.0']);
  expect(Object.keys(body.paths)).toEqual(
    expect.arrayContaining([
      '/api/admin/metrics/weekly',
      '/api/admin/metrics/calculate',
      '/trpc/custom.create',
      '/trpc/realtime.watch',
    ]),
  );
  expect(body.paths).not.toHaveProperty(['/trpc/usage.record']);
  const weekly = body.paths['/api/admin/metrics/weekly'].get;
  expect(
    weekly.parameters.filter((each: { required: boolean }) => each.required).map((each: { name: string }) => each.name),
  ).toEqual(['startDate', 'endDate']);
  const bodyOf = (path: string) => body.paths[path].post.requestBody;
  expect([bodyOf('/trpc/custom.create').required, bodyOf('/trpc/rollups.daily.run').required]).toEqual([true, false]);
});
