import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from '../test/start.ts';

let running: Running;
const today = new Date().toISOString().slice(0, 10);
const month = `${today.slice(0, 8)}01`;

beforeAll(async () => {
  running = await startAnalytics();
  const entry = (merchantId: string, id: string, date: string) => ({
    ...{ id, merchantId, time: `${date}T00:00:00Z`, userId: '7' },
    metrics: { cost: '0.000000001', seats: '3', prompt_tokens: '100000000000001' },
  });
  await running.ingest.usage.record.mutate({
    entries: [
      entry('acme', 'a', today),
      entry('acme', 'b', month),
      entry('say "hi" \\o/', 'a', month),
      { ...entry('acme', 'older', month), time: new Date(Date.parse(`${month}T00:00:00Z`) - 1).toISOString() },
    ],
    backfill: true,
  });
});
afterAll(() => running.stop());

const get = (path: string, key = KEY) => running.app.request(path, { headers: { authorization: `Bearer ${key}` } });
const gauges = async (key?: string) => {
  const text = await (await get('/metrics/usage', key)).text();
  const series = [...text.matchAll(/^(tally_usage\S*?(?:\{.*\})?) (\S+)$/gm)].map(([, name, value]) => [name, value]);
  return Object.fromEntries(series) as Record<string, string>;
};
const name = (merchant: string, metric: string, period: string) =>
  `tally_usage{merchant="${merchant}",metric="${metric}",period="${period}"}`;

test('has the usage of today and of this month, exactly', async () => {
  const series = await gauges();
  const both = today === month ? 2 : 1;
  expect(series).toMatchObject({
    [name('acme', 'cost', 'day')]: `0.00000000${both}`,
    [name('acme', 'cost', 'month')]: '0.000000002',
    [name('acme', 'prompt_tokens', 'month')]: '200000000000002',
    [name('acme', 'seats', 'month')]: '6',
    [name('say \\"hi\\" \\\\o/', 'requests', 'month')]: '1',
    tally_usage_complete: '1',
    tally_usage_truncated: '0',
  });
});

test('has the merchant of a bound key only, and asks for a key that may read', async () => {
  const viewer = await running.ingest.keys.create.mutate({ name: 'scraper', role: 'viewer', merchantId: 'acme' });
  const producer = await running.ingest.keys.create.mutate({ name: 'sender', role: 'producer' });
  const names = Object.keys(await gauges(viewer.key)).filter((each) => each.includes('merchant='));
  expect(names).toHaveLength(8);
  expect(names.every((each) => each.includes('"acme"'))).toBe(true);
  expect((await get('/metrics/usage', producer.key)).status).toBe(403);
});

test('REST answers with JSON numbers when asked to, but ids stay strings', async () => {
  const path = `/api/v1/usage/breakdown?startDate=${month}&endDate=${today}&by=user&merchantIds=acme`;
  const [plain, numbers] = await Promise.all(
    ['', '&numbers=true'].map(async (more) => (await (await get(path + more)).json()) as { rows: object[] }),
  );
  expect(plain!.rows).toMatchObject([{ key: '7', requests: '2', cost: '0.000000002' }]);
  expect(numbers!.rows).toMatchObject([
    { key: '7', requests: 2, cost: 2e-9, completionTokens: 0, totalTokens: 200_000_000_000_002 },
  ]);
  expect((await get(`${path}&numbers=maybe`)).status).toBe(400);
});

test('REST takes two groupings as exports do, or as two parameters', async () => {
  const path = `/api/v1/usage/breakdown?startDate=${month}&endDate=${today}&merchantIds=acme`;
  const keysOf = async (by: string) => {
    const answer = (await (await get(`${path}&${by}`)).json()) as { rows: { keys: string[] }[] };
    return answer.rows.map(({ keys }) => keys);
  };
  expect(await keysOf('by=user,merchant')).toEqual([['7', 'acme']]);
  expect(await keysOf('by=user&by=merchant')).toEqual([['7', 'acme']]);
  expect((await get(`${path}&by=user,planet`)).status).toBe(400);
});
