import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from '../../../test/ingest-fixture.ts';
import { ATTRIBUTES, itemOfSpan } from './genai.ts';
import { spansOfJson } from './json.ts';
import { spansOfProtobuf } from './protobuf.ts';
import type { Span } from './span.ts';

/** Bodies that the libraries sent for the same calls of a model; see test/fixtures/otlp/README.md. */
const LIBRARIES = [
  ...(['otel', 'traceloop', 'vercel', 'vercel7', 'openinference', 'langfuse', 'langfuse-openai'] as const),
];
const fixture = (name: string) => readFileSync(new URL(`../../../test/fixtures/otlp/${name}`, import.meta.url));

let ingest: Fixture;
beforeAll(async () => {
  ingest = await startIngest();
  ingest.clock.now = Date.parse('2026-11-26T06:00:00Z');
});
afterAll(() => ingest.close());

const caller = { id: 'test', role: 'producer', merchantId: 'acme', teamId: null } as const;
const PROTOBUF = { 'content-type': 'application/x-protobuf' };
const JSON_TYPE = { 'content-type': 'application/json' };

let key: string;
let merchantId = 'm';
beforeEach(async () => {
  merchantId = `${merchantId}x`;
  ({ key } = await ingest.admin.keys.create.mutate({ name: 'spans', role: 'member', merchantId }));
});

const send = (body: string | Buffer, headers: Record<string, string>, path = '/v1/traces') =>
  ingest.app.request(path, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, ...headers },
    body: body as unknown as string,
  });
const spansIn = (library: string) => [...spansOfJson(fixture(`${library}.body`), ATTRIBUTES)];
const totals = async () => (await ingest.admin.usage.current.query({ merchantId })).metrics;

/** 374 prompt and 44 completion tokens per call, 8 of an embedding; what a library does not report is not counted. */
const EXPECTED = {
  // chat, responses, stream, embedding, one that failed
  otel: { requests: '5', failed_requests: '1', prompt_tokens: '1130', completion_tokens: '132' },
  // chat, responses; a stream without tokens
  traceloop: { requests: '3', prompt_tokens: '748', completion_tokens: '88' },
  // generateText, streamText, embed, one that failed
  vercel: {
    ...{ requests: '4', failed_requests: '1', prompt_tokens: '756', completion_tokens: '88' },
    ...{ cached_tokens: '200', reasoning_tokens: '24' },
  },
  // the same; both embeddings as two spans, one within the other
  vercel7: {
    ...{ requests: '4', failed_requests: '1', prompt_tokens: '756', completion_tokens: '88' },
    ...{ cached_tokens: '200', reasoning_tokens: '24' },
  },
  // chat, responses; a stream and an embedding without tokens
  openinference: {
    ...{ requests: '4', prompt_tokens: '748', completion_tokens: '88' },
    ...{ cached_tokens: '200', reasoning_tokens: '24' },
  },
  // Given by hand: 374 and 44, and 100 tokens of a cache that are not among the 374.
  langfuse: { requests: '1', prompt_tokens: '474', completion_tokens: '44', cached_tokens: '100', cost: '0.0023' },
  // chat, stream, one that failed; a part of the tokens is in `input`, the others beside it
  'langfuse-openai': {
    ...{ requests: '3', failed_requests: '1', prompt_tokens: '748', completion_tokens: '88' },
    ...{ cached_tokens: '200', reasoning_tokens: '24' },
  },
};

describe.each(LIBRARIES)('spans of %s', (library) => {
  test.each([
    ['body', JSON_TYPE],
    ['pb', PROTOBUF],
  ])('are counted once as %s, plain and compressed, and repeats are not', async (ending, headers) => {
    const body = fixture(`${library}.${ending}`);
    for (const sent of [
      () => send(body, headers),
      () => send(gzipSync(body), { ...headers, 'content-encoding': 'gzip' }),
    ]) {
      const response = await sent();
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe(headers['content-type']);
      expect(await response.text()).toBe(ending === 'pb' ? '' : '{}');
      const { total_tokens: _, ...metrics } = await totals();
      expect(metrics).toEqual(EXPECTED[library]);
    }
  });

  test('say the same in both encodings, and nothing of prompts and answers is read', () => {
    const [json, protobuf] = [spansIn(library), [...spansOfProtobuf(fixture(`${library}.pb`), ATTRIBUTES)]];
    const parts = (spans: Span[]) =>
      spans.map(({ start: _, ...span }) => span).sort((a, b) => (a.spanId < b.spanId ? -1 : 1));
    expect(parts(protobuf)).toEqual(parts(json));
    const items = json.map((span) => itemOfSpan(span, caller, 'service.name'));
    expect(JSON.stringify(items)).toContain('gpt-4o');
    expect(JSON.stringify([json.map(({ attributes }) => attributes), items])).not.toMatch(/secret|answer\./i);
    expect(fixture(`${library}.body`).toString()).toMatch(library === 'otel' ? /gpt-4o/ : /The secret prompt/);
  });
});

test('a call has its model as it was asked for, its provider, its user and the time of its start', () => {
  const [call] = spansIn('vercel').map((span) => itemOfSpan(span, caller, 'service.name'));
  expect(call).toMatchObject({
    entry: {
      ...{ id: expect.stringMatching(/^otel:[0-9a-f]{32}:[0-9a-f]{16}$/), merchantId: 'acme' },
      ...{ model: 'gpt-4o', provider: 'openai', userId: 'ada', status: 'success' },
      time: expect.stringMatching(/^2026-11-26T05:/),
      properties: { event_type: 'chat' },
    },
  });
});

test('the start of a span is its millisecond, exactly, in both encodings', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), fc.boolean(), (any, isBorder) => {
      const nanos = isBorder ? (any / 1_000_000n) * 1_000_000n : any;
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(nanos);
      const protobuf = Buffer.from([0x0a, 13, 0x12, 11, 0x12, 9, 0x39, ...bytes]);
      const json = JSON.stringify({
        resourceSpans: [{ scopeSpans: [{ spans: [{ startTimeUnixNano: `${nanos}` }] }] }],
      });
      const read = [...spansOfProtobuf(protobuf, ATTRIBUTES), ...spansOfJson(Buffer.from(json), ATTRIBUTES)];
      expect(read.map(({ start }) => BigInt(start))).toEqual([nanos / 1_000_000n, nanos / 1_000_000n]);
    }),
  );
});

test('only attributes of the wanted names are read, and none that merely resembles them', () => {
  const name = 'gen_ai.usage.input_tokens';
  expect(ATTRIBUTES.indexOf(name)).toBeGreaterThanOrEqual(0);
  fc.assert(
    fc.property(fc.nat({ max: name.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, byte) => {
      const bytes = Buffer.from(name);
      bytes[at] = byte;
      expect(ATTRIBUTES.indexOfBytes(bytes, 0, bytes.length)).toBe(ATTRIBUTES.indexOf(bytes.toString('latin1')));
    }),
  );
});

const attribute = (name: string, value: object) => ({ key: name, value });
const spanOf = (id: number, more: object[] = [], span: object = {}) => ({
  traceId: '5b8efff798038103d269b633813fc60c',
  spanId: id.toString(16).padStart(16, '0'),
  startTimeUnixNano: '1795664800123456789',
  status: {},
  attributes: [
    attribute('gen_ai.request.model', { stringValue: 'gpt-4o' }),
    attribute('gen_ai.operation.name', { stringValue: 'chat' }),
    ...more,
  ],
  ...span,
});
/** A span that has a model, and does not say what it did. */
const unnamed = (id: number, more: object[] = [], span: object = {}) =>
  spanOf(id, [], { attributes: [attribute('gen_ai.request.model', { stringValue: 'gpt-4o' }), ...more], ...span });
const requestOf = (spans: object[], resource: object[] = []) =>
  JSON.stringify({ resourceSpans: [{ resource: { attributes: resource }, scopeSpans: [{ spans }] }] });
const tokens = (value: object) => attribute('gen_ai.usage.input_tokens', value);

test('amounts are exact in both ways of writing them, and what is no amount is rejected alone', async () => {
  const spans = [
    spanOf(1, [tokens({ intValue: '999999999999999' })]),
    spanOf(2, [tokens({ intValue: 1 })]),
    spanOf(3, [tokens({ doubleValue: 2 })]),
    spanOf(4, [tokens({ doubleValue: 2.5 })]),
    spanOf(5, [tokens({ intValue: '-1' })]),
    spanOf(6, [tokens({ intValue: '1152921504606846976' })]),
    spanOf(7, [], { traceId: '0'.repeat(32) }),
    spanOf(8, [], { startTimeUnixNano: undefined }),
  ];
  const response = await send(requestOf(spans), JSON_TYPE);
  expect(await response.json()).toEqual({
    partialSuccess: { rejectedSpans: '5', errorMessage: expect.stringContaining('prompt_tokens') },
  });
  expect(await totals()).toMatchObject({ requests: '3', prompt_tokens: '1000000000000002' });
  const { rows } = await ingest.admin.sources.rejections.query({ source: 'otlp' });
  expect(rows.slice(0, 5).map(({ code, merchantId: of }) => [code, of])).toEqual(
    Array.from({ length: 5 }, () => ['INVALID_ENTRY', merchantId]),
  );
});

test('calls without tokens are counted, and metrics say how many', async () => {
  const count = async () => {
    const text = await (await ingest.app.request('/metrics')).text();
    return Number(/tally_source_events_total\{source="otlp",result="without_tokens"\} (\d+)/.exec(text)?.[1] ?? 0);
  };
  const before = await count();
  const former = attribute('llm.request.type', { stringValue: 'completion' });
  const spans = [spanOf(1), unnamed(2, [tokens({ intValue: 3 })]), unnamed(3, [former])];
  expect(await (await send(requestOf(spans), JSON_TYPE)).json()).toEqual({});
  expect(await count()).toBe(before + 2);
});

test('a span that names no operation and has no tokens is no call, such as a count of tokens', async () => {
  expect(
    await (await send(requestOf([unnamed(1), unnamed(2, [], { status: { code: 2 } })]), JSON_TYPE)).json(),
  ).toEqual({});
  expect(await totals()).toEqual({});
});

test.each(['first', 'last'])(
  'a call that a client reports within an instrumentation counts once, the outer span %s',
  async (order) => {
    const named = (name: string, stringValue: string) => attribute(name, { stringValue });
    const count = (name: string, intValue: number) => attribute(name, { intValue });
    const instrumented = (id: number, more: object[]) =>
      unnamed(id, [named('openinference.span.kind', 'LLM'), named('user.id', 'ada'), ...more]);
    const client = (id: number, parent: number, input: number, span: object = {}) =>
      spanOf(
        id,
        [
          count('gen_ai.usage.input_tokens', input),
          ...[count('gen_ai.usage.output_tokens', 7), count('gen_ai.usage.cache_write.input_tokens', 3)],
        ],
        { parentSpanId: parent.toString(16).padStart(16, '0'), ...span },
      );
    const both = [count('llm.token_count.prompt', 20), count('llm.token_count.completion', 7)];
    const spans = [
      ...[client(2, 1, 20), instrumented(1, both)],
      // The instrumentation reports no tokens of a stream.
      ...[client(4, 3, 20), instrumented(3, [])],
      // Another call, within the first: a tool that calls a model.
      client(5, 1, 21),
    ];
    if (order === 'first') spans.reverse();
    expect(await (await send(requestOf(spans), JSON_TYPE)).json()).toEqual({});
    expect(await totals()).toMatchObject({
      requests: '3',
      prompt_tokens: '61',
      completion_tokens: '21',
      cache_write_tokens: '6',
    });
    const { rows } = await ingest.admin.usage.recent.query({ merchantId });
    expect(rows.map(({ userId }) => userId).sort()).toEqual(['ada', null, null]);
  },
);

describe('a call of the AI SDK counts all its tokens', () => {
  const usage = (input: number) => ({
    input_tokens: input,
    cache_creation_input_tokens: 20,
    cache_read_input_tokens: 40,
  });
  const google = { promptTokenCount: 100, candidatesTokenCount: 30, thoughtsTokenCount: 5, totalTokenCount: 135 };
  const cache = { cached_tokens: '40', cache_write_tokens: '20' };
  const thoughts = { reasoning_tokens: '5' };
  const sums = (prompt: number, completion: number) => ({
    ...{ prompt_tokens: String(prompt), completion_tokens: String(completion) },
  });
  test.each([
    [
      '4, Anthropic',
      [100, 30],
      { anthropic: { cacheReadInputTokens: 40, cacheCreationInputTokens: 20 } },
      {},
      { ...sums(160, 30), ...cache },
    ],
    [
      '4, Bedrock',
      [100, 30],
      { bedrock: { usage: { cacheReadInputTokens: 40, cacheWriteInputTokens: 20 } } },
      {},
      { ...sums(160, 30), ...cache },
    ],
    [
      '4, OpenAI',
      [100, 30],
      { openai: { cachedPromptTokens: 40, reasoningTokens: 5 } },
      {},
      { ...sums(100, 30), cached_tokens: '40', ...thoughts },
    ],
    [
      '5, Anthropic',
      [100, 30],
      { anthropic: { usage: usage(100), cacheCreationInputTokens: 20 } },
      {},
      { ...sums(160, 30), ...cache },
    ],
    [
      '5, a stream of Bedrock',
      [100, 30],
      { bedrock: { usage: { cacheWriteInputTokens: 20 } } },
      { total: 190, cached: 40 },
      { ...sums(160, 30), ...cache },
    ],
    ['5, Google', [100, 30], { google: { usageMetadata: google } }, {}, { ...sums(100, 35), ...thoughts }],
    ['5, a stream of Google', [100, 30], {}, { total: 135, reasoning: 5 }, { ...sums(100, 35), ...thoughts }],
    [
      '6, Anthropic',
      [160, 30],
      { anthropic: { usage: usage(100), cacheCreationInputTokens: 20 } },
      {},
      { ...sums(160, 30), ...cache },
    ],
    [
      '6, Google',
      [100, 35],
      { google: { usageMetadata: google } },
      { total: 135, reasoning: 5 },
      { ...sums(100, 35), ...thoughts },
    ],
    [
      '6, Bedrock',
      [160, 30],
      { bedrock: { usage: { cacheWriteInputTokens: 20 } } },
      { total: 190, cached: 40 },
      { ...sums(160, 30), ...cache },
    ],
    ['4, with metadata that are no object', [100, 30], 'cut', {}, sums(100, 30)],
  ])(
    'version %s',
    async (_, [input, output], metadata, { total, cached, reasoning }: Record<string, number>, expected) => {
      const numbers = {
        ...{ 'gen_ai.usage.input_tokens': input, 'gen_ai.usage.output_tokens': output, 'ai.usage.totalTokens': total },
        ...{ 'ai.usage.cachedInputTokens': cached, 'ai.usage.reasoningTokens': reasoning },
      };
      const span = spanOf(1, [
        attribute('ai.operationId', { stringValue: 'ai.generateText.doGenerate' }),
        attribute('ai.response.providerMetadata', { stringValue: JSON.stringify(metadata) }),
        ...Object.entries(numbers).flatMap(([name, intValue]) =>
          intValue === undefined ? [] : [attribute(name, { intValue })],
        ),
      ]);
      expect(await (await send(requestOf([span]), JSON_TYPE)).json()).toEqual({});
      const { total_tokens: __, requests: ___, ...metrics } = await totals();
      expect(metrics).toEqual(expected);
    },
  );
});

test('prompt tokens include those of a cache, also of Traceloop for Anthropic, and under the former names', async () => {
  const count = (name: string, intValue: number) => attribute(`gen_ai.usage.${name}`, { intValue });
  const input = count('input_tokens', 100);
  const cache = [count('cache_read.input_tokens', 1000), count('cache_creation.input_tokens', 30)];
  const former = [count('cache_read_input_tokens', 50), count('cache_creation_input_tokens', 20)];
  const traceloop = { scope: { name: '@traceloop/instrumentation-anthropic' }, spans: [spanOf(1, [input, ...cache])] };
  const others = { spans: [spanOf(2, [input, ...former, count('reasoning_tokens', 7)])] };
  const body = JSON.stringify({ resourceSpans: [{ scopeSpans: [traceloop, others] }] });
  expect(await (await send(body, JSON_TYPE)).json()).toEqual({});
  expect(await totals()).toMatchObject({
    ...{ requests: '2', prompt_tokens: '1230', cached_tokens: '1050', cache_write_tokens: '50', reasoning_tokens: '7' },
  });
});

test('the outer span of an embedding of the AI SDK 7 is not counted, even if it arrives alone', async () => {
  const request = JSON.parse(fixture('vercel7.body').toString());
  const [scope] = request.resourceSpans[0].scopeSpans;
  for (const span of scope.spans) {
    scope.spans = [span];
    expect(await (await send(JSON.stringify(request), JSON_TYPE)).json()).toEqual({});
  }
  // Only that the outer span of a failed one repeats it cannot be seen then.
  expect(await totals()).toMatchObject({ requests: '5', failed_requests: '2', prompt_tokens: '756' });
});

test.each([
  ['beside its parts', { input: 4, input_cached_tokens: 3, output: 2, output_reasoning_tokens: 1, total: 10 }, [7, 3]],
  ['with its parts', { input: 7, cache_read_input_tokens: 3, output: 3, output_reasoning: 1, total: 10 }, [7, 3]],
  ['without a total', { input: 4, cache_read_input_tokens: 2, cache_creation_input_tokens: 1, output: 3 }, [7, 3]],
  ['in names of OpenAI', { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 }, [7, 3]],
  ['with parts only', { input_audio_tokens: 7, output_audio_tokens: 3 }, [7, 3]],
])('usage details of Langfuse give the input %s', async (_, details, [prompt, completion]) => {
  const usage = attribute('langfuse.observation.usage_details', { stringValue: JSON.stringify(details) });
  expect(await (await send(requestOf([spanOf(1, [usage])]), JSON_TYPE)).json()).toEqual({});
  expect(await totals()).toMatchObject({ prompt_tokens: String(prompt), completion_tokens: String(completion) });
});

test('usage details of Langfuse with a part of a token are rejected', async () => {
  const details = JSON.stringify({ input: 7, input_audio_tokens: 0.5, output: 3 });
  const usage = attribute('langfuse.observation.usage_details', { stringValue: details });
  expect(await (await send(requestOf([spanOf(1, [usage])]), JSON_TYPE)).json()).toMatchObject({
    partialSuccess: { errorMessage: expect.stringContaining('0.5') },
  });
});

test.each([
  [{ input: 0.01, output: 0.02, discount: -0.005 }, '0.025'],
  [{ input: 0.01, discount: -0.5 }, undefined],
  [{ input: 0.01, output: 1e40 }, undefined],
])('cost details of Langfuse, %j, are summed or the span is rejected', async (details, cost) => {
  const costs = attribute('langfuse.observation.cost_details', { stringValue: JSON.stringify(details) });
  const answer = await (await send(requestOf([spanOf(1, [costs])]), JSON_TYPE)).json();
  if (cost === undefined) expect(answer).toMatchObject({ partialSuccess: { rejectedSpans: expect.anything() } });
  else expect([answer, (await totals()).cost]).toEqual([{}, cost]);
});

test('an attribute without text is absent', async () => {
  const empty = (name: string) => attribute(name, { stringValue: '' });
  const all = { ...JSON_TYPE, authorization: `Bearer ${ADMIN_KEY}` };
  const resource = [attribute('tally.merchant', { stringValue: merchantId })];
  const span = spanOf(1, [empty('tally.merchant'), empty('user.id'), empty('gen_ai.provider.name')]);
  span.attributes.push(attribute('gen_ai.system', { stringValue: 'openai' }));
  const second = spanOf(2, [attribute('gen_ai.response.model', { stringValue: 'gpt-4o' })]);
  second.attributes[0] = empty('gen_ai.request.model');
  expect(await (await send(requestOf([span, second], resource), all)).json()).toEqual({});
  expect(await totals()).toMatchObject({ requests: '2' });
  const [read] = [...spansOfJson(Buffer.from(requestOf([span], resource)), ATTRIBUTES)];
  const item = itemOfSpan(read!, { ...caller, merchantId: null }, 'service.name');
  expect(item).toMatchObject({ entry: { merchantId, provider: 'openai' } });
  expect(item).not.toHaveProperty('entry.userId');
});

test('a key that is bound to no merchant takes it from the span, its resource, or the name of the service', async () => {
  const all = { ...JSON_TYPE, authorization: `Bearer ${ADMIN_KEY}` };
  const name = (value: string) => attribute('service.name', { stringValue: value });
  const merchant = (value: string) => attribute('tally.merchant', { stringValue: value });
  await send(requestOf([spanOf(1), spanOf(2, [merchant(`${merchantId}-c`)])], [name(`${merchantId}-a`)]), all);
  await send(requestOf([spanOf(3)], [name('x'), merchant(`${merchantId}-b`)]), all);
  const usage = (of: string) => ingest.admin.usage.current.query({ merchantId: `${merchantId}-${of}` });
  for (const of of ['a', 'b', 'c']) expect((await usage(of)).metrics).toMatchObject({ requests: '1' });
  expect(await (await send(requestOf([spanOf(4)]), all)).json()).toMatchObject({
    partialSuccess: { rejectedSpans: '1', errorMessage: expect.stringContaining('tally.merchant') },
  });
  // A bound key counts only for its own merchant, whatever the service is called.
  expect(await (await send(requestOf([spanOf(5)], [name('x')]), JSON_TYPE)).json()).toEqual({});
  expect((await send(requestOf([spanOf(6)], [merchant('another')]), JSON_TYPE)).status).toBe(403);
});

describe('a request that cannot be read', () => {
  test.each([
    ['no key', 401, { authorization: '' }, '{}'],
    ['no JSON', 400, {}, '{'],
    ['a list', 400, {}, '[]'],
    ['text', 415, { 'content-type': 'text/plain' }, 'x'],
    ['broken protobuf', 400, PROTOBUF, Buffer.from([0x0a, 0x05, 0x01])],
    ['broken gzip', 400, { ...PROTOBUF, 'content-encoding': 'gzip' }, Buffer.from('no')],
    ['too large when inflated', 413, { ...PROTOBUF, 'content-encoding': 'gzip' }, gzipSync(Buffer.alloc(17 * 2 ** 20))],
  ])('is answered as OTLP does: %s', async (_, status, headers, body) => {
    const response = await send(body, { ...JSON_TYPE, ...headers });
    expect(response.status).toBe(status);
    const type = { ...JSON_TYPE, ...headers }['content-type'];
    if (type === PROTOBUF['content-type']) {
      expect(response.headers.get('content-type')).toBe(type);
      const bytes = Buffer.from(await response.arrayBuffer());
      expect([bytes[0], bytes[2]]).toEqual([8, 18]);
    } else expect(await response.json()).toEqual({ code: expect.any(Number), message: expect.any(String) });
  });

  test('has every length of a cut body refused or taken, never failed', async () => {
    const body = fixture('langfuse.pb');
    for (let length = 0; length < body.length; length += 7) {
      const { status } = await send(body.subarray(0, length), PROTOBUF);
      expect([length, [200, 400].includes(status)]).toEqual([length, true]);
    }
  });
});

test('Langfuse sends its key as the password of Basic', async () => {
  const basic = `Basic ${Buffer.from(`pk-lf-1:${key}`).toString('base64')}`;
  const path = '/sources/langfuse/api/public/otel/v1/traces';
  const response = await send(fixture('langfuse.body'), { ...JSON_TYPE, authorization: basic }, path);
  expect([response.status, await response.text()]).toEqual([200, '{}']);
  expect(await totals()).toMatchObject({ requests: '1', cost: '0.0023' });
});
