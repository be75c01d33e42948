import { MAX_BILL_LINES } from '@tally/contracts';
import { expect, test } from 'vitest';
import { itemOf } from './openai.ts';
import { readExport } from './read-export.ts';

/** Lines as texts: day, model, class, quantity and nano-USD. */
async function read(provider: 'openai' | 'anthropic', file: unknown) {
  const { lines, ...rest } = await readExport(provider, typeof file === 'string' ? file : JSON.stringify(file));
  return {
    ...rest,
    lines: lines.map((line) => [line.date, line.model, line.class, line.quantity, line.amount].join(' ')),
  };
}

const bucket = (results: unknown[], start_time = 1730419200) => ({
  ...{ object: 'bucket', start_time, end_time: start_time + 86_400 },
  results,
});
const page = (...data: unknown[]) => ({ object: 'page', data, has_more: false, next_page: null });
const cost = (value: number | string, line_item: string | null = null) => ({
  ...{ object: 'organization.costs.result', amount: { value, currency: 'usd' } },
  ...{ line_item, project_id: null },
});

test("reads the example of OpenAI's reference of costs: a day without models", async () => {
  expect(await read('openai', page(bucket([cost(0.06)])))).toEqual({
    ...{ kind: 'cost', format: 'openai-costs-json', days: ['2024-11-01'], count: 1, hasMore: false, rejected: [] },
    ...{ lines: ['2024-11-01  all  60000000'], repeated: [] },
    // Written to the cent.
    rounding: 10_000_000n,
  });
});

test('reads costs by line item, exactly, beyond what a float holds', async () => {
  const file = `{"object":"page","data":[{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
    {"object":"organization.costs.result","amount":{"value":0.1308043834030752619,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, input","quantity":52321753},
    {"object":"organization.costs.result","amount":{"value":1.2e-05,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, cached input","quantity":10.0},
    {"object":"organization.costs.result","amount":{"value":-2,"currency":"usd"},"line_item":"web search tool calls","quantity":0.5}
  ]}],"has_more":true,"next_page":"page_2"}`;
  expect(await read('openai', file)).toMatchObject({
    lines: [
      '2024-11-01 gpt-4o-2024-08-06 input 52321753 130804383',
      '2024-11-01 gpt-4o-2024-08-06 cached_input 10 12000',
      '2024-11-01 web search tool calls other  -2000000000',
    ],
    ...{ rounding: 1n, hasMore: true },
  });
});

test("reads the example of OpenAI's reference of completions usage, and cached tokens as a part of input", async () => {
  const example = {
    object: 'organization.usage.completions.result',
    ...{ input_tokens: 1000, output_tokens: 500, input_cached_tokens: 800 },
    ...{ input_audio_tokens: 0, output_audio_tokens: 0, num_model_requests: 5 },
    ...{ project_id: null, user_id: null, api_key_id: null, model: null, batch: null },
  };
  expect(await read('openai', page(bucket([example]), bucket([], 1730505600)))).toMatchObject({
    ...{ kind: 'usage', format: 'openai-usage-json', days: ['2024-11-01', '2024-11-02'] },
    lines: ['input 200', 'cached_input 800', 'output 500', 'requests 5'].map((line) => `2024-11-01  ${line} `),
  });
});

test("reads CSV of OpenAI's console", async () => {
  const costs = `start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,line_item,user_id,api_key_id,project_id
1790467200,1790553600,2026-09-27T00:00:00+00:00,2026-09-28T00:00:00+00:00,,,,,,,,
1790553600,1790640000,2026-09-28T00:00:00,2026-09-29T00:00:00,0.5000000000000000,usd,1000,tokens,"gpt-5-nano, input_tokens",,key_1,proj_a
`;
  expect(await read('openai', costs)).toMatchObject({
    ...{ kind: 'cost', format: 'openai-costs-csv', days: ['2026-09-27', '2026-09-28'], rejected: [] },
    lines: ['2026-09-28 gpt-5-nano input 1000 500000000'],
  });
  const usage = `start_time,end_time,model,num_model_requests,input_tokens,output_tokens,input_cached_tokens
1790553600,1790640000,gpt-5-nano,2,1000,10,
`;
  expect((await read('openai', usage)).lines).toEqual([
    '2026-09-28 gpt-5-nano input 1000 ',
    '2026-09-28 gpt-5-nano cached_input 0 ',
    '2026-09-28 gpt-5-nano output 10 ',
    '2026-09-28 gpt-5-nano requests 2 ',
  ]);
});

test.each([
  ['gpt-5.5-2026-04-23, input', 'gpt-5.5-2026-04-23', 'input'],
  ['gpt-4o-mini-2024-07-18, cached input', 'gpt-4o-mini-2024-07-18', 'cached_input'],
  ['priority | gpt-5.6-sol, output, long context', 'gpt-5.6-sol', 'output'],
  ['gpt-5.6-sol, cache writes', 'gpt-5.6-sol', 'cache_write'],
  ['ft-gpt-4o-2024-08-06, input', 'ft-gpt-4o-2024-08-06', 'input'],
  ['text-embedding-3-small', 'text-embedding-3-small', 'all'],
  ['gpt-audio-mini-2025-12-15 audio, input', 'gpt-audio-mini-2025-12-15 audio, input', 'other'],
  ['assistants api | file search', 'assistants api | file search', 'other'],
  ['Completions', 'Completions', 'other'],
])('reads the line item %s', (item, model, name) => {
  expect(itemOf(item)).toEqual({ model, class: name });
});

const day = (results: unknown[]) => ({
  ...{ starting_at: '2025-08-01T00:00:00Z', ending_at: '2025-08-02T00:00:00Z' },
  results,
});

test("reads the example of Anthropic's reference of cost reports: amounts are cents", async () => {
  const example = {
    ...{ currency: 'USD', amount: '123.78912', workspace_id: 'wrkspc_01JwQvzr7rXLA5AGx3HKfFUJ' },
    ...{ description: 'Claude Sonnet 4 Usage - Input Tokens', cost_type: 'tokens', context_window: '0-200k' },
    ...{ model: 'claude-sonnet-4-20250514', service_tier: 'standard', token_type: 'uncached_input_tokens' },
  };
  const search = { currency: 'USD', amount: '12', description: 'Web Search Usage', cost_type: 'web_search' };
  const written = { ...example, amount: '1', token_type: 'cache_creation.ephemeral_1h_input_tokens' };
  const whole = { ...search, description: null, cost_type: null };
  const file = { data: [day([example, written, search, whole])], has_more: true, next_page: 'page_2' };
  expect(await read('anthropic', file)).toMatchObject({
    ...{ kind: 'cost', format: 'anthropic-costs-json', hasMore: true, rounding: 100n },
    lines: [
      '2025-08-01 claude-sonnet-4-20250514 input  1237891200',
      '2025-08-01 claude-sonnet-4-20250514 cache_write  10000000',
      '2025-08-01 Web Search Usage other  120000000',
      '2025-08-01  all  120000000',
    ],
  });
});

test("reads the example of Anthropic's reference of usage reports: cached tokens are beside the others", async () => {
  const example = {
    uncached_input_tokens: 1500,
    cache_creation: { ephemeral_1h_input_tokens: 1000, ephemeral_5m_input_tokens: 500 },
    ...{ cache_read_input_tokens: 200, output_tokens: 500, server_tool_use: { web_search_requests: 10 } },
    ...{ api_key_id: null, workspace_id: null, model: 'claude-sonnet-4-20250514', service_tier: 'standard' },
  };
  expect((await read('anthropic', { data: [day([example])], has_more: false })).lines).toEqual(
    ['input 1500', 'cached_input 200', 'cache_write 1500', 'output 500'].map(
      (line) => `2025-08-01 claude-sonnet-4-20250514 ${line} `,
    ),
  );
});

test("reads CSV of Anthropic's console", async () => {
  const costs = `usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type,inference_geo,speed
2026-08-04,Claude Haiku 4.5,Default,demo-key,message,≤ 200k,input_no_cache,0.05,0.05,token,not_available,
2026-08-05,Claude Haiku 4.5,Default,demo-key,message,≤ 200k,input_cache_read,0.10,1.00,token,not_available,
2026-08-05,,Default,demo-key,,,,0.20,0.20,web_search,,
`;
  expect(await read('anthropic', costs)).toMatchObject({
    ...{ format: 'anthropic-costs-csv', days: ['2026-08-04', '2026-08-05'], rounding: 10_000_000n },
    lines: [
      '2026-08-04 Claude Haiku 4.5 input  50000000',
      '2026-08-05 Claude Haiku 4.5 cached_input  100000000',
      '2026-08-05 web_search other  200000000',
    ],
  });
  const usage = `usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed
2026-08-05,claude-opus-5,"Closer, App",Default,standard,≤ 200k,46981,15969,1,2,16932,0,global,
`;
  expect((await read('anthropic', usage)).lines).toEqual(
    ['input 46981', 'cached_input 2', 'cache_write 15970', 'output 16932'].map(
      (line) => `2026-08-05 claude-opus-5 ${line} `,
    ),
  );
});

test.each([
  [{ amount: { value: 1, currency: 'eur' } }, 'Its currency is "eur", not USD.'],
  [{ amount: { value: 'much', currency: 'usd' } }, 'Expected an amount, got "much".'],
  [{ amount: { value: null, currency: 'usd' } }, 'Expected an amount, got null.'],
  [{ amount: { value: 1, currency: 'usd' }, line_item: 'a\u0000b' }, 'control characters'],
  [{ input_tokens: 5 }, 'It has usage, and the lines before have costs'],
  [{ images: 5 }, 'It has neither an amount nor tokens.'],
])('rejects the line %j and reads the others', async (result, message) => {
  const { lines, rejected } = await read('openai', page(bucket([cost(1), result, cost(2)])));
  expect(lines).toHaveLength(2);
  expect(rejected).toEqual([{ place: 'data[0].results[1]', message: expect.stringContaining(message) }]);
});

test('rejects buckets that are not within a UTC day, and those that overlapping pages repeat', async () => {
  const shifted = { ...bucket([cost(1)], 1730422800) };
  expect((await read('openai', page(shifted, bucket([cost(1)])))).rejected).toEqual([
    { place: 'data[0]', message: 'Its time is not within one UTC day: export with bucket_width=1d.' },
  ]);
  expect((await read('openai', [page(bucket([cost(1)])), page(bucket([cost(1)]))])).rejected).toEqual([
    { place: '[1].data[0]', message: expect.stringContaining('twice') },
  ]);
});

test.each([
  ['', 'no line'],
  ['{', 'not valid JSON'],
  ['{"data":5}', 'data is not an array'],
  ['{"data":[]}', 'no line'],
  ['a,b\n1,2\n', 'start_time: expected a time in Unix seconds'],
])('refuses %j as a whole', async (file, message) => {
  await expect(readExport('openai', file)).rejects.toThrow(message);
});

test('refuses more lines than an export may have', async () => {
  const rows = 'start_time,amount_value,amount_currency\n'.concat('1730419200,1,usd\n'.repeat(MAX_BILL_LINES + 1));
  await expect(readExport('openai', rows)).rejects.toMatchObject({ code: 'BATCH_TOO_LARGE' });
});

test('names of the language are no classes of tokens', async () => {
  expect(itemOf('gpt-4o, constructor')).toEqual({ model: 'gpt-4o, constructor', class: 'other' });
  const results = [{ currency: 'USD', amount: '1', model: 'claude', token_type: 'toString', cost_type: 'tokens' }];
  const bucket = { starting_at: '2026-11-01T00:00:00Z', ending_at: '2026-11-02T00:00:00Z', results };
  expect(await read('anthropic', page(bucket))).toMatchObject({ lines: ['2026-11-01 claude other  10000000'] });
});

test('a row of CSV with other cells than columns is rejected, as a file that was cut off has one', async () => {
  const header = 'start_time,amount_value,amount_currency\n';
  const { rejected } = await read(
    'openai',
    `${header}1730419200,1,usd\n1730505600\n1730505600,1,usd,more\n1730505600,1,usd,\n`,
  );
  expect(rejected).toEqual([
    { place: 'line 3', message: 'It has 1 cells, and the first line names 3 columns: is the file cut off?' },
    { place: 'line 4', message: 'It has 4 cells, and the first line names 3 columns: is a comma not quoted?' },
  ]);
});

test('refuses CSV that names a column twice, since either may be meant', async () => {
  const file = 'usage_date_utc,model,cost_usd,Cost_USD \n2026-11-01,claude-opus-5,1.00,2.00\n';
  await expect(readExport('anthropic', file)).rejects.toThrow(
    'The first line names the column "cost_usd" twice: leave out one of the two.',
  );
});

test('what cannot be read is named', async () => {
  await expect(read('openai', 'usage_date_utc,cost_usd\n2026-11-01,1')).rejects.toThrow(
    'line 2: start_time: expected a time in Unix seconds, got nothing.',
  );
  await expect(read('openai', '<html>error, 500</html>')).rejects.toThrow('The export has no line');
  await expect(read('openai', 'start_time,total\n1730419200,1')).rejects.toThrow(
    'No line of the export has an amount or tokens: is it an export of openai?',
  );
});

test('rejects rows of CSV that are not of one UTC day', async () => {
  const file = `start_time,end_time,amount_value,amount_currency
1730419200,1730505600,1,usd
1730419200,1731024000,7,usd
1730415600,1730502000,1,usd
`;
  const { lines, rejected } = await read('openai', file);
  expect(lines).toEqual(['2024-11-01  all  1000000000']);
  expect(rejected.map(({ place, message }) => `${place}: ${message}`)).toEqual(
    [3, 4].map((line) => `line ${line}: Its time is not within one UTC day: export with bucket_width=1d.`),
  );
});

test.each([
  ['2026-11-01', true],
  ['2026-11-01T00:00:00Z', true],
  ['2026-11-01 00:00:00', true],
  ['2026-11-01T00:00:00.000+00:00', true],
  ['2026-11-01 00:00:00 UTC', true],
  ['2026-11-01T23:00:00-05:00', false],
  ['2026-11-01 00:00:00 PST', false],
  ['2026-11-012', false],
  ['2026-02-30', false],
])("reads %s in the column usage_date_utc of Anthropic's CSV as a UTC day: %s", async (date, isRead) => {
  const file = `usage_date_utc,model,cost_usd\n2026-10-31,claude-opus-5,1\n${date},claude-opus-5,2\n`;
  const { days, rejected } = await read('anthropic', file);
  expect(days).toEqual(isRead ? ['2026-10-31', '2026-11-01'] : ['2026-10-31']);
  expect(rejected).toHaveLength(isRead ? 0 : 1);
});

test.each([
  ['start_time', `{"data":[{"start_time":${'['.repeat(1e5)}${']'.repeat(1e5)}}]}`],
  [
    'a currency',
    `{"data":[{"start_time":1,"end_time":2,"results":[{"amount":{"currency":${'['.repeat(1e5)}${']'.repeat(1e5)}}}]}]}`,
  ],
  ['a page', '['.repeat(3e6) + ']'.repeat(3e6)],
])('refuses JSON that is nested too deep in %s', async (_, file) => {
  await expect(readExport('openai', file)).rejects.toMatchObject({
    ...{ code: 'INVALID_INPUT', message: expect.stringContaining('nested more than') },
  });
});

test('refuses more JSON than lines can need, before it is parsed', async () => {
  const file = `{"data":[${'1,'.repeat(3e6)}1]}`;
  await expect(readExport('openai', file)).rejects.toThrow('The JSON has more than 2000000 items.');
});

test.each([
  ['JSON', `{"data":[${'1,'.repeat(MAX_BILL_LINES)}1]}`, 'data[0]: start_time'],
  ['CSV', `start_time,amount_value\n${'1\n'.repeat(MAX_BILL_LINES + 1)}`, 'line 2: It has 1 cells'],
])('ends at more unreadable lines of %s than an export may have, and names the first', async (_, file, first) => {
  await expect(readExport('openai', file)).rejects.toMatchObject({
    code: 'INVALID_INPUT',
    message: expect.stringContaining(`more than ${MAX_BILL_LINES} lines that cannot be read. ${first}`),
  });
});

test('rejects a bucket that lies within another, as hours do that are exported beside their day', async () => {
  const hour = { ...bucket([cost(1)]), end_time: 1730419200 + 3600 };
  const tokens = { object: 'organization.usage.completions.result', input_tokens: 1, output_tokens: 1 };
  expect((await read('openai', page(bucket([cost(1)]), hour))).rejected).toEqual([
    { place: 'data[1]', message: expect.stringContaining('buckets of other lengths') },
  ]);
  const hours = [0, 1].map((h) => ({ ...bucket([tokens], 1730419200 + h * 3600), end_time: 1730422800 + h * 3600 }));
  expect(await read('openai', page(...hours))).toMatchObject({ rejected: [], repeated: [], count: 2 });
});

test("reads results under the name that OpenAI's reference gives them", async () => {
  const { results, ...rest } = bucket([cost(1)]);
  expect((await read('openai', page({ ...rest, result: results }))).lines).toEqual(['2024-11-01  all  1000000000']);
});

test.each([
  ['openai', 'start_time,model,input_tokens,output_tokens\n1790553600,gpt-5,,5\n1790553600,gpt-5,1,5', 'input_tokens'],
  [
    'anthropic',
    'usage_date_utc,model,usage_input_tokens_no_cache,usage_output_tokens\n2026-08-05,claude,,5\n2026-08-05,claude,1,5',
    'usage_input_tokens_no_cache',
  ],
  [
    'anthropic',
    'usage_date_utc,model,usage_input_tokens_no_cache,usage_output_tokens\n2026-08-05,claude,5,\n2026-08-05,claude,1,5',
    'usage_output_tokens',
  ],
] as const)('rejects a row of %s that lacks a part of its tokens', async (provider, file, name) => {
  expect((await read(provider, file)).rejected).toEqual([
    { place: 'line 2', message: `${name}: expected a whole number, got nothing.` },
  ]);
});

test('rejects tokens that are not known, and does not count them as 0', async () => {
  const results = [{ uncached_input_tokens: 5 }, { uncached_input_tokens: null, output_tokens: 1 }];
  expect(
    (await read('anthropic', page(day([...results, { uncached_input_tokens: 5, output_tokens: 1 }])))).rejected,
  ).toEqual(
    ['output_tokens', 'uncached_input_tokens'].map((name, index) => ({
      place: `data[0].results[${index}]`,
      message: `${name}: expected a whole number, got ${index === 0 ? 'nothing' : 'null'}.`,
    })),
  );
});

test('names the lines that are in the export before, field by field: they count', async () => {
  const csv = 'usage_date_utc,model,cost_usd\n2026-11-01,claude,1\n2026-11-01,claude,2\n2026-11-01,claude,1\n';
  expect(await read('anthropic', csv)).toMatchObject({ count: 3, repeated: ['line 4'], rejected: [] });
  const json = page(bucket([cost(1), cost(2), cost(1)]), bucket([cost(1)], 1730505600));
  expect(await read('openai', json)).toMatchObject({ count: 4, repeated: ['data[0].results[2]'] });
});

test('reads names in NFC, as Tally meters them', async () => {
  expect((await read('openai', page(bucket([cost(1, 'mode\u0301le-1, input')])))).lines[0]).toContain(
    ' mod\u00e9le-1 input',
  );
});

test('reads a first line of very many columns', async () => {
  const columns = Array.from({ length: 150_000 }, (_, index) => `c${index.toString(36)}`);
  await expect(readExport('openai', columns.join(','))).rejects.toThrow('The export has no line');
});
