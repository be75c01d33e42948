import { addDays, type BreakdownBy, type BreakdownRow, dayOf, Grouping, parseQuantity } from '@tally/contracts';
import { tableFromIPC } from 'apache-arrow';
import { strFromU8, unzipSync } from 'fflate';
import { readParquet } from 'parquet-wasm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from '../../test/start.ts';

let running: Running;
const range = { startDate: '2026-01-01', endDate: '2026-02-28' };
const NASTY = '=HYPERLINK("http://x","y")';

beforeAll(async () => {
  running = await startAnalytics({ ADMIN_EXPORT_RATE_LIMIT: '1000000' });
  const entries = Array.from({ length: 5_000 }, (_, index) => ({
    id: `e-${index}`,
    merchantId: 'acme',
    time: new Date(Date.UTC(2026, 0, 1 + (index % 59), 12)).toISOString(),
    userId: index === 0 ? NASTY : `user-${index % 700}`,
    model: index % 2 ? 'gpt' : 'say "hi", <b>&\u00e9',
    metrics: { prompt_tokens: String(index), cost: '0.000000001' },
  }));
  for (let from = 0; from < entries.length; from += 1000)
    await running.ingest.usage.record.mutate({ entries: entries.slice(from, from + 1000), backfill: true });
  await running.client.directory.upsert.mutate({
    entries: [
      { kind: 'user', id: 'user-1', name: '@SUM(1)', email: 'one@example.com', role: 'user', team: 'red' },
      { kind: 'merchant', id: 'acme', name: 'Acme' },
    ],
  });
  // Voided usage, and failed usage without most dimensions.
  const time = '2026-01-05T12:00:00Z';
  await running.ingest.usage.record.mutate({
    entries: [
      { id: 'gone', merchantId: 'acme', time, userId: 'gone', model: 'gone', metrics: { prompt_tokens: '5' } },
      { id: 'failed', merchantId: 'acme', time, model: 'gpt', provider: 'openai', status: 'failure', metrics: {} },
    ],
    backfill: true,
  });
  await running.ingest.usage.adjust.mutate({
    id: 'taken-back',
    merchantId: 'acme',
    date: '2026-01-05',
    metrics: { requests: '-1', prompt_tokens: '-5' },
    dimensions: { userId: 'gone', model: 'gone' },
    reason: 'a mistake',
  });
});
afterAll(() => running.stop());

const get = async (path: string, key = KEY) =>
  running.app.request(path, { headers: { authorization: `Bearer ${key}` } });
const query = (more: Record<string, string> = {}) => new URLSearchParams({ ...range, ...more }).toString();

test('the rows of every format add up to what the API answers, with the same filters', async () => {
  const { totals } = await running.client.analytics.breakdown.query({ ...range, by: 'user', models: ['gpt'] });
  for (const by of [{}, { by: 'user' }] as Record<string, string>[]) {
    const filters = query({ ...by, models: 'gpt' });
    const lines = (await (await get(`/export/usage.ndjson?${filters}`)).text()).trim().split('\n');
    const rows = lines.map((line) => JSON.parse(line) as Record<string, string>);
    const sum = (name: string) => rows.reduce((whole, row) => whole + BigInt(row[name]!), 0n).toString();
    expect([sum('requests'), sum('promptTokens')]).toEqual([totals.requests, totals.promptTokens]);
    expect(await (await get(`/export/usage.json?${filters}`)).json()).toEqual(rows);
    const csv = (await (await get(`/export/usage.csv?${filters}`)).text()).trim().split('\n');
    expect(csv).toHaveLength(rows.length + 1);
    const files = unzipSync(new Uint8Array(await (await get(`/export/usage.xlsx?${filters}`)).arrayBuffer()));
    const sheet = strFromU8(files['xl/worksheets/sheet1.xml']!);
    expect(sheet.match(/<row>/g)).toHaveLength(rows.length + 1);
    expect(Object.keys(files).sort()).toEqual([
      '[Content_Types].xml',
      '_rels/.rels',
      'xl/_rels/workbook.xml.rels',
      'xl/workbook.xml',
      'xl/worksheets/sheet1.xml',
    ]);
  }
});

test('a Parquet file has the rows and the exact quantities of the other formats', async () => {
  const path = (ending: string) => `/export/usage.${ending}?${query({ models: 'gpt' })}`;
  const lines = (await (await get(path('ndjson'))).text()).trim().split('\n');
  const answer = await get(path('parquet'));
  expect(answer.headers.get('content-type')).toBe('application/vnd.apache.parquet');
  const table = tableFromIPC(readParquet(new Uint8Array(await answer.arrayBuffer())).intoIPCStream());
  expect(table.schema.fields.map(({ name, type }) => `${name}: ${type}`)).toEqual([
    'date: Date32<DAY>',
    ...['merchantId', 'userId', 'apiKey', 'model', 'provider', 'username'].map((name) => `${name}: Utf8`),
    ...['requests', 'failedRequests', 'promptTokens', 'completionTokens', 'totalTokens'].map(
      (name) => `${name}: Decimal[38e0]`,
    ),
    'cost: Decimal[38e+9]',
    'successRate: Decimal[38e+2]',
  ]);
  const rows = lines.map((line) => JSON.parse(line) as Record<string, string>);
  const units = (words: Uint32Array) => [...words].reduceRight((value, word) => (value << 32n) | BigInt(word), 0n);
  expect(
    table.toArray().map((row) => [new Date(row.date).toISOString().slice(0, 10), row.userId, units(row.cost)]),
  ).toEqual(rows.map((row) => [row.date, row.userId, parseQuantity('cost', row.cost!)]));
  expect(table.toArray().map((row) => units(row.promptTokens).toString())).toEqual(rows.map((row) => row.promptTokens));
  const nothing = await get(`/export/usage.parquet?${query({ userIds: 'nobody' })}`);
  expect(tableFromIPC(readParquet(new Uint8Array(await nothing.arrayBuffer())).intoIPCStream()).numRows).toBe(0);
});

const ONE_OR_TWO: BreakdownBy[] = [...Grouping.options, ['user', 'model'], ['team', 'user']];
test.each(ONE_OR_TWO.map((by) => ({ by })))(
  'as JSON the rows by $by are those of the API, field by field, in the same order',
  async ({ by }) => {
    const rows: BreakdownRow[] = [];
    for (let cursor: string | null | undefined; cursor !== null; ) {
      const question = { ...range, by, sortBy: 'key', order: 'asc', limit: 200, ...(cursor && { cursor }) } as const;
      const page = await running.client.analytics.breakdown.query(question);
      rows.push(...page.rows);
      cursor = page.nextCursor;
    }
    const exported = (await (
      await get(`/export/usage.json?${query({ by: [by].flat().join(',') })}`)
    ).json()) as BreakdownRow[];
    expect(exported).toEqual(rows);
  },
);

test('two groupings are two columns with their labels, and a filter by team holds', async () => {
  const path = `/export/usage.csv?${query({ by: 'team,user', teams: 'red', models: 'gpt' })}`;
  const [head, ...rows] = (await (await get(path)).text()).trim().split('\n');
  expect(head).toMatch(/^team,teamLabel,user,userLabel,requests,/);
  expect(rows.map((row) => row.split(',').slice(0, 4))).toEqual([['red', 'red', 'user-1', "'@SUM(1)"]]);
});

test('with an interval a row is a period of the API, in the time zone', async () => {
  const yesterday = addDays(dayOf(Date.now()), -1);
  const day = { startDate: yesterday, endDate: addDays(yesterday, 1) };
  // In Tokyo the second is of the next day.
  const entries = ['01', '16'].map((hour) => ({
    ...{ id: `hour-${hour}`, merchantId: 'recent', time: `${yesterday}T${hour}:00:00Z`, userId: 'user-1' },
    metrics: { cost: '0.5' },
  }));
  await running.ingest.usage.record.mutate({ entries });
  const zone = { interval: 'day', timeZone: 'Asia/Tokyo', merchantIds: 'recent' } as const;
  const ask = { ...day, ...zone, merchantIds: [zone.merchantIds] };
  const { points } = await running.client.analytics.timeseries.query(ask);
  const periods = [{ period: day.startDate }, { period: day.endDate }];
  const json = async (more: object) =>
    (await get(`/export/usage.json?${new URLSearchParams({ ...day, ...zone, ...more })}`)).json();
  expect(points.map(({ cost }) => cost)).toEqual(['0.5', '0.5']);
  expect(await json({})).toEqual(points.map((point, index) => ({ ...periods[index], ...point })));

  const grouped = await running.client.analytics.timeseries.query({ ...ask, groupBy: 'user' });
  expect(await json({ by: 'user' })).toEqual(
    grouped.points.flatMap(({ start, from, to, groups }, index) =>
      groups!.map((group) => ({ ...periods[index], start, from, to, ...group, label: '@SUM(1)' })),
    ),
  );
  const csv = await get(
    `/export/usage.csv?${new URLSearchParams({ ...day, ...zone, interval: 'hour', by: 'user', merchantIds: 'recent' })}`,
  );
  const [head, first] = (await csv.text()).split('\n');
  expect(head).toMatch(/^period,start,key,label,requests,/);
  expect(first).toMatch(`${yesterday} 10:00,${yesterday}T01:00:00.000Z,user-1,'@SUM(1),1,`);
  // More periods without usage than are written at a time.
  const hours = { startDate: addDays(yesterday, -29), interval: 'hour', by: 'model' };
  expect(await json(hours)).toMatchObject([{ key: 'unknown' }, { key: 'unknown' }]);
});

test('a meter is a file, with a column for each dimension', async () => {
  const ask = { meter: 'cost', startDate: '2026-01-01', endDate: '2026-01-03', window: 'day' } as const;
  const { rows } = await running.client.analytics.meter.query({
    ...{ ...ask, groupBy: ['merchant', 'model'] },
    filters: { user: ['user-1', 'user-2'] },
  });
  const query = `${new URLSearchParams(ask)}&groupBy=merchant,model&filter=user%3Duser-1&filter=user%3Duser-2`;
  const answer = await get(`/export/meter.json?${query}`);
  expect(answer.headers.get('content-disposition')).toContain('cost-2026-01-01-to-2026-01-03.json');
  expect(await answer.json()).toEqual(rows.map((row) => ({ period: row.start.slice(0, 10), ...row })));
  expect(rows.length).toBeGreaterThan(0);
  const csv = (await (await get(`/export/meter.csv?${query}`)).text()).trim().split('\n');
  expect(csv[0]).toBe('period,start,end,merchant,model,value');
  expect(csv).toHaveLength(rows.length + 1);
  const p50 = await get(`/export/meter.csv?${new URLSearchParams(ask)}&percentile=half`);
  expect(p50.status).toBe(400);
});

test('as JSON the rows of a day have measures as the API has them', async () => {
  const filters = { startDate: '2026-01-05', endDate: '2026-01-05', providers: 'openai' };
  expect(await (await get(`/export/usage.json?${new URLSearchParams(filters)}`)).json()).toEqual([
    {
      date: '2026-01-05',
      merchantId: 'acme',
      userId: 'unknown',
      apiKey: 'unknown',
      model: 'gpt',
      provider: 'openai',
      username: 'Unknown User',
      requests: '1',
      failedRequests: '1',
      promptTokens: '0',
      completionTokens: '0',
      totalTokens: '0',
      cost: '0',
      successRate: 0,
    },
  ]);
});

test('text that a spreadsheet would run is neutralised, and separators are quoted', async () => {
  const csv = await (await get(`/export/usage.csv?${query({ by: 'user' })}`)).text();
  expect(csv).toContain(`"'=HYPERLINK(""http://x"",""y"")"`);
  expect(csv).toContain(`user-1,'@SUM(1),one@example.com,user,`);
  const models = await (await get(`/export/usage.csv?${query({ by: 'model' })}`)).text();
  expect(models).toContain(`"say ""hi"", <b>&\u00e9"`);
  const files = unzipSync(
    new Uint8Array(await (await get(`/export/usage.xlsx?${query({ by: 'model' })}`)).arrayBuffer()),
  );
  const sheet = strFromU8(files['xl/worksheets/sheet1.xml']!);
  expect(sheet).toContain('say "hi", &lt;b&gt;&amp;\u00e9');
  expect(sheet).not.toContain('<f>');
});

test('a reader who leaves lets go of the connection', async () => {
  for (let index = 0; index < 15; index++) {
    const response = await get(`/export/usage.ndjson?${query()}`);
    const reader = response.body!.getReader();
    await reader.read();
    await reader.cancel();
  }
  expect((await running.client.analytics.breakdown.query({ ...range, by: 'model' })).total).toBe(2);
});

test('a bad question is refused before the file begins, in the one shape of errors', async () => {
  const code = async (path: string, key?: string) => {
    const response = await get(path, key);
    const { error } = (await response.json()) as { error: { data: { code: string } } };
    return [response.status, error.data.code];
  };
  expect(await code('/export/usage.csv?startDate=2026-02-30&endDate=2026-03-01')).toEqual([400, 'INVALID_DATE_FORMAT']);
  expect(await code('/export/usage.csv?startDate=2026-03-02&endDate=2026-03-01')).toEqual([400, 'INVALID_DATE_ORDER']);
  expect(await code('/export/usage.csv?startDate=2020-01-01&endDate=2026-03-01')).toEqual([
    400,
    'DATE_RANGE_TOO_LARGE',
  ]);
  for (const odd of [
    'by=user&by=user',
    'by=user,model,team',
    'by=',
    'timeZone=Asia/Tokyo',
    'interval=fortnight',
    'interval=day&by=user,model',
    'interval=day&timeZone=Mars/Base',
    'startDate=2026-01-02',
    '__proto__=1',
    'constructor=1',
    'colour=red',
  ])
    expect([odd, await code(`/export/usage.csv?${query()}&${odd}`)]).toEqual([odd, [400, 'INVALID_INPUT']]);
  expect(await code(`/export/usage.pdf?${query()}`)).toEqual([404, 'NOT_FOUND']);
  expect(await code(`/export/usage.csv?${query()}`, 'nobody')).toEqual([401, 'UNAUTHORIZED']);
  const bound = await running.ingest.keys.create.mutate({ name: 'bound', role: 'viewer', merchantId: 'acme' });
  for (const path of ['usage.csv?interval=day', 'usage.csv?by=user', 'meter.csv?meter=cost', 'events.csv?models='])
    expect(await code(`/export/${path}&${query({ merchantIds: 'other' })}`, bound.key)).toEqual([
      403,
      'MERCHANT_FORBIDDEN',
    ]);
});

test('callers beyond their rate are told how long to wait', async () => {
  const { app } = await running.another({ ADMIN_EXPORT_RATE_LIMIT: '1', ADMIN_ANALYTICS_RATE_LIMIT: '1' });
  const headers = { authorization: `Bearer ${KEY}` };
  const path = `/export/usage.csv?${query({ by: 'model' })}`;
  // Enough calls that two fall into one minute, wherever its edge is.
  const answers = await Promise.all([1, 2, 3].map(() => app.request(path, { headers })));
  const refused = answers.find((response) => response.status === 429)!;
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(await refused.json()).toMatchObject({ error: { data: { code: 'RATE_LIMITED', details: { limit: 1 } } } });
  const input = encodeURIComponent(JSON.stringify(range));
  const asked = await Promise.all(
    [1, 2, 3].map(() => app.request(`/trpc/analytics.summary?input=${input}`, { headers })),
  );
  const told = asked.find((response) => response.status === 429)!;
  expect(Number(told.headers.get('retry-after'))).toBeGreaterThan(0);
  await Promise.all(
    answers.filter((response) => response !== refused && !response.bodyUsed).map((each) => each.text()),
  );
});

test('the events of a range are exported as they were recorded, corrections left out', async () => {
  const time = '2026-01-20T10:00:00.000Z';
  const entry = {
    ...{ id: 'rich', merchantId: 'acme', time, userId: 'user-1', model: '=1', status: 'failure' as const, count: 3 },
    metrics: { prompt_tokens: '7', cost: '0.000000001', pages: '2' },
    properties: { region: 'eu', retries: 2, cached: true },
  };
  const other = { id: 'other', merchantId: 'zeta', time, metrics: {} };
  await running.ingest.usage.record.mutate({ entries: [entry, other], backfill: true });
  const response = await get('/export/events.ndjson?startDate=2026-01-20&endDate=2026-01-20&models==1');
  expect(response.headers.get('x-tally-complete')).toBe('true');
  expect(
    (await response.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
  ).toEqual([
    {
      ...{ id: 'rich', merchantId: 'acme', time, date: '2026-01-20', userId: 'user-1', apiKey: null, model: '=1' },
      ...{ provider: null, status: 'failure', count: '3', properties: entry.properties },
      metrics: { requests: '3', failed_requests: '3', prompt_tokens: '7', cost: '0.000000001', pages: '2' },
    },
  ]);
  const sheet = await (await get('/export/events.csv?startDate=2026-01-20&endDate=2026-01-20&models==1')).text();
  expect(sheet.trim().split('\n')).toEqual([
    'time,date,id,merchantId,userId,apiKey,model,provider,status,count,requests,failed_requests,prompt_tokens,completion_tokens,cost,metrics,properties',
    `${time},2026-01-20,rich,acme,user-1,,'=1,,failure,3,3,3,7,0,0.000000001,"{""pages"":""2""}","{""cached"":true,""region"":""eu"",""retries"":2}"`,
  ]);
  // All events of a range, each once, in a stable order.
  const all = (await (await get(`/export/events.ndjson?${query()}`)).text()).trim().split('\n');
  const { totals } = await running.client.analytics.breakdown.query({
    ...range,
    by: 'merchant',
    merchantIds: ['acme'],
  });
  const events = all.map((line) => JSON.parse(line));
  expect(new Set(events.map(({ merchantId, date, id }) => `${merchantId} ${date} ${id}`)).size).toBe(all.length);
  const requests = events.reduce((sum, { merchantId, count }) => sum + (merchantId === 'acme' ? Number(count) : 0), 0);
  // A correction, which is no event, took one request back.
  expect(requests).toBe(Number(totals.requests) + 1);
  // A caller bound to a merchant gets its own events.
  const { key } = await running.ingest.keys.create.mutate({ name: 'zeta', role: 'viewer', merchantId: 'zeta' });
  const own = (await (await get(`/export/events.ndjson?${query()}`, key)).text()).trim().split('\n');
  expect(own.map((line) => JSON.parse(line).id)).toEqual(['other']);
  expect((await get(`/export/events.xlsx?${query()}`)).status).toBe(404);
});
