import { createAmazonBedrock as bedrock6 } from '@ai-sdk/amazon-bedrock';
import { createAnthropic as anthropic6 } from '@ai-sdk/anthropic';
import { createGoogleGenerativeAI as google6 } from '@ai-sdk/google';
import { createVertex as vertex6 } from '@ai-sdk/google-vertex';
import { createVertexAnthropic as vertexAnthropic6 } from '@ai-sdk/google-vertex/anthropic';
import { createAmazonBedrock as bedrock5 } from '@ai-sdk-5/amazon-bedrock';
import { createAnthropic as anthropic5 } from '@ai-sdk-5/anthropic';
import { createGoogleGenerativeAI as google5 } from '@ai-sdk-5/google';
import { createVertex as vertex5 } from '@ai-sdk-5/google-vertex';
import { createVertexAnthropic as vertexAnthropic5 } from '@ai-sdk-5/google-vertex/anthropic';
import { describe, expect, test } from 'vitest';
import type { RecordInput } from '../entry.ts';
import { tallyMiddleware } from './ai-sdk.ts';

// The vendors' own packages, of AI SDK 5 and 6, over answers in the vendors' format.

type Model = {
  provider: string;
  modelId: string;
  doGenerate(params: never): PromiseLike<unknown>;
  doStream(params: never): PromiseLike<{ stream: ReadableStream<unknown> }>;
};

const params = { prompt: [{ role: 'user', content: [{ type: 'text', text: 'Hi' }] }] } as never;
const json = (body: object) => async () =>
  new Response(JSON.stringify(body), { headers: { 'content-type': 'application/json' } });
const events = (...bodies: object[]) => {
  const text = bodies.map((body) => `event: ${(body as { type?: string }).type}\ndata: ${JSON.stringify(body)}\n\n`);
  return async () => new Response(text.join(''), { headers: { 'content-type': 'text/event-stream' } });
};

function recorder() {
  const entries: RecordInput[] = [];
  const tally = {
    record(entry: RecordInput) {
      entries.push(JSON.parse(JSON.stringify(entry)));
      return { ok: true } as const;
    },
  };
  return { entries, middleware: tallyMiddleware({ tally, attributes: { merchantId: 'm' } }) };
}

async function generate(model: Model): Promise<RecordInput> {
  const { entries, middleware } = recorder();
  await middleware.wrapGenerate({ model, params, doGenerate: () => model.doGenerate(params) });
  expect(entries).toHaveLength(1);
  return entries[0]!;
}

/** Streams a call; `most` is the number of parts after which its reader stops. */
async function stream(model: Model, most = Number.POSITIVE_INFINITY): Promise<RecordInput> {
  const { entries, middleware } = recorder();
  const result = await middleware.wrapStream({ model, params, doStream: () => model.doStream(params) });
  let parts = 0;
  for await (const _ of result.stream) if (++parts >= most) break;
  expect(entries).toHaveLength(1);
  return entries[0]!;
}

const key = { apiKey: 'key' };
const aws = { region: 'us-east-1', accessKeyId: 'id', secretAccessKey: 'secret' };
const token = { getAccessToken: async () => ({ token: 'token' }) };
const project = { project: 'p', location: 'us-central1', googleAuthOptions: { authClient: token as never } };

const gemini = {
  candidates: [{ content: { parts: [{ text: 'Hi' }], role: 'model' }, finishReason: 'STOP' }],
  usageMetadata: { promptTokenCount: 10, candidatesTokenCount: 20, thoughtsTokenCount: 100, totalTokenCount: 130 },
};
const claudeUsage = {
  input_tokens: 86,
  cache_read_input_tokens: 17_817,
  cache_creation_input_tokens: 100,
  output_tokens: 100,
};
const claude = {
  type: 'message',
  id: 'msg_1',
  model: 'claude-sonnet-4-20250514',
  content: [{ type: 'text', text: 'Hi' }],
  stop_reason: 'end_turn',
  stop_sequence: null,
  usage: claudeUsage,
};
const converse = {
  output: { message: { role: 'assistant', content: [{ text: 'Hi' }] } },
  stopReason: 'end_turn',
  usage: {
    inputTokens: 86,
    outputTokens: 100,
    totalTokens: 186,
    cacheReadInputTokens: 17_817,
    cacheWriteInputTokens: 100,
  },
};

describe('Gemini, whose output leaves out reasoning', () => {
  const name = 'gemini-2.5-pro';
  const fetch = json(gemini);
  test.each<[string, Model]>([
    ['AI SDK 5, google', google5({ ...key, fetch })(name) as never],
    ['AI SDK 6, google', google6({ ...key, fetch })(name) as never],
    ['AI SDK 5, google-vertex', vertex5({ ...project, fetch })(name) as never],
    ['AI SDK 6, google-vertex', vertex6({ ...project, fetch })(name) as never],
  ])('is counted with its reasoning: %s', async (_, model) => {
    const { provider, metrics } = await generate(model);
    expect(provider).toBe('google');
    expect(metrics).toEqual({
      prompt_tokens: 10,
      completion_tokens: 120,
      reasoning_tokens: 100,
      cost: '0.0012125',
    });
  });

  test.each<[string, Model]>([
    ['AI SDK 5', google5({ ...key, fetch: events(gemini) })(name) as never],
    ['AI SDK 6', google6({ ...key, fetch: events(gemini) })(name) as never],
  ])('is counted with its reasoning when streamed: %s', async (_, model) => {
    const { metrics, properties } = await stream(model);
    expect(metrics).toMatchObject({ completion_tokens: 120, cost: '0.0012125' });
    expect(properties).toBeUndefined();
  });

  test.each<[string, (fetch: never) => Model]>([
    ['AI SDK 5', (fetch) => google5({ ...key, fetch })(name) as never],
    ['AI SDK 6', (fetch) => google6({ ...key, fetch })(name) as never],
  ])('has neither tokens nor cost where it reports no usage: %s', async (_, modelOf) => {
    const { candidates } = gemini;
    expect((await generate(modelOf(json({ candidates }) as never))).metrics).toEqual({});
    expect((await generate(modelOf(json({ candidates, usageMetadata: {} }) as never))).metrics).toEqual({});
  });

  test.each<[string, Model]>([
    [
      'AI SDK 5',
      google5({ ...key, fetch: events({ ...gemini, candidates: [{ ...gemini.candidates[0], finishReason: null }] }) })(
        name,
      ) as never,
    ],
    [
      'AI SDK 6',
      google6({ ...key, fetch: events({ ...gemini, candidates: [{ ...gemini.candidates[0], finishReason: null }] }) })(
        name,
      ) as never,
    ],
  ])('is partial where the stream ends without a reason: %s', async (_, model) => {
    const { metrics, properties } = await stream(model);
    expect(properties).toEqual({ partial: true });
    expect(metrics.cost).toBeUndefined();
  });
});

describe('Claude, whose input leaves out the cache', () => {
  const name = 'claude-sonnet-4-20250514';
  const onVertex = 'claude-sonnet-4@20250514';
  const onBedrock = 'anthropic.claude-sonnet-4-20250514-v1:0';
  const fetch = json(claude);
  // 86 at 3, 17,817 at 0.30, 100 at 3.75 and 100 at 15 USD for a million.
  const metrics = {
    prompt_tokens: 18_003,
    completion_tokens: 100,
    cached_tokens: 17_817,
    cache_write_tokens: 100,
    cost: '0.0074781',
  };
  test.each<[string, string, Model]>([
    ['AI SDK 5', 'anthropic.messages', anthropic5({ ...key, fetch })(name) as never],
    ['AI SDK 6', 'anthropic.messages', anthropic6({ ...key, fetch })(name) as never],
    ['AI SDK 5', 'vertex.anthropic.messages', vertexAnthropic5({ ...project, fetch })(onVertex) as never],
    ['AI SDK 6', 'vertex.anthropic.messages', vertexAnthropic6({ ...project, fetch })(onVertex) as never],
    ['AI SDK 5', 'amazon-bedrock', bedrock5({ ...aws, fetch: json(converse) })(onBedrock) as never],
    ['AI SDK 6', 'amazon-bedrock', bedrock6({ ...aws, fetch: json(converse) })(onBedrock) as never],
  ])('is counted with the cache inside the prompt: %s, %s', async (_, provider, model) => {
    expect(model.provider).toBe(provider);
    expect((await generate(model)).metrics).toEqual(metrics);
  });

  test.each(['googleVertex.anthropic.messages', 'bedrock.anthropic.messages', 'my-anthropic-proxy'])(
    'is found by the whole name of the provider: %s',
    async (provider) => {
      const inner = anthropic5({ ...key, fetch })(name) as unknown as Model;
      const model: Model = { ...inner, provider, modelId: name, doGenerate: () => inner.doGenerate(params) };
      expect((await generate(model)).metrics).toEqual(metrics);
    },
  );

  const started = {
    type: 'message_start',
    message: { ...claude, content: [], stop_reason: null, usage: { ...claudeUsage, output_tokens: 1 } },
  };
  const text = [
    { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'Hi' } },
    { type: 'content_block_stop', index: 0 },
  ];
  const ended = [
    { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 100 } },
    { type: 'message_stop' },
  ];
  test.each<[string, (fetch: never) => Model]>([
    ['AI SDK 5', (fetch) => anthropic5({ ...key, fetch })(name) as never],
    ['AI SDK 6', (fetch) => anthropic6({ ...key, fetch })(name) as never],
  ])('is partial, without a cost, where the reader leaves or the stream is cut: %s', async (_, modelOf) => {
    const whole = await stream(modelOf(events(started, ...text, ...ended) as never));
    expect(whole).toMatchObject({ status: 'success', metrics });
    expect(whole.properties).toBeUndefined();
    for (const left of [
      await stream(modelOf(events(started, ...text, ...ended) as never), 3),
      await stream(modelOf(events(started, ...text) as never)),
    ]) {
      expect(left.properties).toEqual({ partial: true });
      expect(left.metrics).not.toHaveProperty('cost');
      expect(left.metrics).not.toHaveProperty('completion_tokens');
    }
  });
});
