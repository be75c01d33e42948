import { generateText, streamText, wrapLanguageModel } from 'ai';
import { MockLanguageModelV3, simulateReadableStream } from 'ai/test';
import { describe, expect, test } from 'vitest';
import type { RecordInput } from '../entry.ts';
import { tallyMiddleware } from './ai-sdk.ts';
import { observeAnthropic, recordAnthropic, wrapAnthropic } from './anthropic.ts';
import { observeGoogle, recordGoogle } from './google.ts';
import { observeOpenAI, recordOpenAI, wrapOpenAI } from './openai.ts';

function recorder() {
  const entries: RecordInput[] = [];
  const tally = {
    record(entry: RecordInput) {
      entries.push(JSON.parse(JSON.stringify(entry)));
      return { ok: true } as const;
    },
  };
  return { entries, options: { tally, attributes: { merchantId: 'm', userId: 'u' } } };
}

async function* streamOf<T>(...events: T[]) {
  yield* events;
}

async function drain<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const seen: T[] = [];
  for await (const each of stream) seen.push(each);
  return seen;
}

const chat = {
  id: 'chatcmpl-1',
  object: 'chat.completion',
  model: 'gpt-4o-2024-08-06',
  service_tier: 'default',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Hi' }, finish_reason: 'stop' }],
  usage: {
    prompt_tokens: 1000,
    completion_tokens: 100,
    total_tokens: 1100,
    prompt_tokens_details: { cached_tokens: 400, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 60, accepted_prediction_tokens: 0 },
  },
};
const chatEntry = {
  merchantId: 'm',
  userId: 'u',
  provider: 'openai',
  model: 'gpt-4o-2024-08-06',
  status: 'success',
  // 600 at 2.50, 400 at 1.25 and 100 at 10.00 USD for a million.
  metrics: { prompt_tokens: 1000, completion_tokens: 100, cached_tokens: 400, reasoning_tokens: 60, cost: '0.003' },
};

/** The shape of the vendors' promises: lazy, with the raw response beside it. */
function apiPromise<T>(data: T): Promise<T> & { withResponse(): Promise<{ data: T; response: string }> } {
  return Object.assign(Promise.resolve(data), { withResponse: async () => ({ data, response: 'raw' }) });
}

describe('OpenAI', () => {
  test('cached and reasoning tokens are parts, never added', () => {
    const { entries, options } = recorder();
    recordOpenAI(chat, options);
    expect(entries).toEqual([chatEntry]);
  });

  test('responses of the Responses API and embeddings are read too', () => {
    const { entries, options } = recorder();
    const usage = {
      input_tokens: 50,
      input_tokens_details: { cached_tokens: 10 },
      output_tokens: 20,
      output_tokens_details: { reasoning_tokens: 5 },
      total_tokens: 70,
    };
    recordOpenAI({ object: 'response', status: 'completed', model: 'gpt-4o', usage }, options);
    recordOpenAI(
      { object: 'list', model: 'text-embedding-3-small', usage: { prompt_tokens: 8, total_tokens: 8 } },
      options,
    );
    expect(entries.map(({ metrics }) => metrics)).toEqual([
      { prompt_tokens: 50, completion_tokens: 20, cached_tokens: 10, reasoning_tokens: 5, cost: '0.0003125' },
      { prompt_tokens: 8, completion_tokens: 0, cost: '0.00000016' },
    ]);
  });

  test('an unknown model, provider or tier has no cost, and what the provider says goes before any list', () => {
    const { entries, options } = recorder();
    recordOpenAI({ ...chat, model: 'nobody-knows-me' }, options);
    recordOpenAI(chat, { ...options, attributes: { merchantId: 'm', provider: 'my-proxy' } });
    recordOpenAI({ ...chat, service_tier: 'flex' }, options);
    recordOpenAI({ ...chat, model: 'omni-moderation-latest' }, options);
    recordOpenAI({ ...chat, usage: { ...chat.usage, cost: 0.0123 } }, options);
    recordOpenAI(chat, { ...options, price: () => '7' });
    expect(entries.map(({ metrics }) => metrics.cost)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      '0.0123',
      '7',
    ]);
    expect(Object.keys(entries[0]!.metrics)).not.toContain('cost');
  });

  test('a wrapped client is as it was, and each call is recorded once', async () => {
    const { entries, options } = recorder();
    const requests: unknown[] = [];
    class Client {
      #secret = 'private';
      chat = {
        completions: {
          create: (request: { model: string; stream?: boolean }) => {
            requests.push(request);
            if (request.model === 'down') return Promise.reject(new Error('down'));
            const { usage, ...rest } = chat;
            const chunk = { ...rest, usage: null };
            return request.stream
              ? apiPromise(streamOf<unknown>(chunk, { ...chunk, choices: [], usage }))
              : apiPromise(chat);
          },
        },
      };
      reveal() {
        return this.#secret;
      }
    }
    const client = wrapOpenAI(new Client(), options);
    expect(client.reveal()).toBe('private');
    const promise = client.chat.completions.create({ model: 'gpt-4o' });
    expect(await promise).toBe(chat);
    expect(await promise).toBe(chat);
    const { response } = await (
      client.chat.completions.create({ model: 'gpt-4o' }) as ReturnType<typeof apiPromise>
    ).withResponse();
    expect(response).toBe('raw');
    const stream = (await client.chat.completions.create({ model: 'gpt-4o', stream: true })) as AsyncIterable<unknown>;
    expect(await drain(stream)).toHaveLength(1);
    expect(requests.at(-1)).toEqual({ model: 'gpt-4o', stream: true, stream_options: { include_usage: true } });
    const asked = { model: 'gpt-4o', stream: true, stream_options: { include_usage: true } };
    expect(await drain((await client.chat.completions.create(asked)) as AsyncIterable<unknown>)).toHaveLength(2);
    await expect(client.chat.completions.create({ model: 'down' })).rejects.toThrow('down');
    expect(entries.slice(0, 4)).toEqual([chatEntry, chatEntry, chatEntry, chatEntry]);
    expect(entries.slice(4)).toEqual([
      { merchantId: 'm', userId: 'u', provider: 'openai', model: 'down', status: 'failure', metrics: {} },
    ]);
  });

  test('records a stream that is left early or breaks, and marks it as partial', async () => {
    const { entries, options } = recorder();
    for await (const _ of observeOpenAI(streamOf({ model: 'gpt-4o', choices: [{}] }, { choices: [{}] }), options))
      break;
    const broken = (async function* () {
      yield { model: 'gpt-4o', choices: [{}] };
      throw new Error('cut');
    })();
    await expect(drain(observeOpenAI(broken, options))).rejects.toThrow('cut');
    const events = streamOf(
      { type: 'response.created', response: { model: 'gpt-4o', status: 'in_progress', usage: null } },
      {
        type: 'response.failed',
        response: { model: 'gpt-4o', status: 'failed', usage: { input_tokens: 3, output_tokens: 0 } },
      },
    );
    await drain(observeOpenAI(events, options));
    expect(entries.map(({ status, metrics, properties }) => [status, metrics, properties?.partial])).toEqual([
      ['success', {}, true],
      ['failure', {}, true],
      ['failure', { prompt_tokens: 3, completion_tokens: 0, cost: '0.0000075' }, undefined],
    ]);
  });

  test('takes the counts of each chunk as provisional until the stream has ended', async () => {
    const { entries, options } = recorder();
    const chunk = (output: number, reason: string | null) => ({
      model: 'gpt-4o',
      choices: [{ finish_reason: reason }],
      usage: { prompt_tokens: 1000, completion_tokens: output, total_tokens: 1000 + output },
    });
    for await (const _ of observeOpenAI(streamOf(chunk(1, null), chunk(2, null)), options)) break;
    await drain(observeOpenAI(streamOf(chunk(1, null), chunk(2, null)), options));
    await drain(observeOpenAI(streamOf(chunk(1, null), chunk(100, 'stop')), options));
    expect(entries.map(({ metrics, properties }) => [metrics, properties?.partial])).toEqual([
      [{ prompt_tokens: 1000, completion_tokens: 1 }, true],
      [{ prompt_tokens: 1000, completion_tokens: 2 }, true],
      [{ prompt_tokens: 1000, completion_tokens: 100, cost: '0.0035' }, undefined],
    ]);
  });

  test('keeps the properties of the caller beside the mark, and leaves it out where they fill the entry', async () => {
    const { entries, options } = recorder();
    const cut = () =>
      observeOpenAI(streamOf({ choices: [{}] }), { ...options, attributes: { merchantId: 'm', properties } });
    const names = (most: number) => Object.fromEntries(Array.from({ length: most }, (_, at) => [`p${at}`, at]));
    let properties = names(15);
    await drain(cut());
    properties = names(16);
    await drain(cut());
    expect(entries.map((each) => each.properties)).toEqual([{ ...names(15), partial: true }, names(16)]);
  });
});

describe('Anthropic', () => {
  const usage = {
    input_tokens: 5,
    cache_creation_input_tokens: 4735,
    cache_read_input_tokens: 0,
    cache_creation: { ephemeral_5m_input_tokens: 4735, ephemeral_1h_input_tokens: 0 },
    output_tokens: 255,
    service_tier: 'standard',
  };
  const message = { type: 'message', model: 'claude-sonnet-4-20250514', content: [], usage };
  const metrics = { prompt_tokens: 4740, completion_tokens: 255, cache_write_tokens: 4735, cost: '0.02159625' };

  test('the cache is put into the prompt once', () => {
    const { entries, options } = recorder();
    recordAnthropic(message, options);
    recordAnthropic({ ...message, usage: { ...usage, service_tier: 'batch' } }, options);
    expect(entries[0]).toMatchObject({ provider: 'anthropic', model: 'claude-sonnet-4-20250514', metrics });
    expect(entries[1]!.metrics.cost).toBeUndefined();
  });

  test('the counts of a stream are the last it told of', async () => {
    const { entries, options } = recorder();
    const events = () => [
      { type: 'message_start', message: { ...message, usage: { ...usage, output_tokens: 1 } } },
      { type: 'content_block_delta', delta: { type: 'text_delta', text: 'Hi' } },
      { type: 'message_delta', usage: { output_tokens: 100, input_tokens: null } },
      { type: 'message_delta', usage: { output_tokens: 255, cache_creation_input_tokens: null } },
      { type: 'message_stop' },
    ];
    expect(await drain(observeAnthropic(streamOf(...events()), options))).toEqual(events());
    expect(entries).toMatchObject([{ status: 'success', metrics }]);
    expect(entries[0]!.properties).toBeUndefined();
  });

  test('never takes the placeholder of a stream’s start for its output', async () => {
    const { entries, options } = recorder();
    const start = { type: 'message_start', message: { ...message, usage: { ...usage, output_tokens: 1 } } };
    const delta = { type: 'content_block_delta', delta: { type: 'text_delta', text: 'Hi' } };
    const sofar = { type: 'message_delta', delta: { stop_reason: null }, usage: { output_tokens: 100 } };
    for await (const event of observeAnthropic(streamOf<object>(start, delta, sofar), options))
      if ((event as object) === delta) break;
    await drain(observeAnthropic(streamOf<object>(start, delta), options));
    await drain(observeAnthropic(streamOf<object>(start, delta, sofar), options));
    const known = { prompt_tokens: 4740, cache_write_tokens: 4735 };
    expect(entries.map((each) => each.metrics)).toEqual([known, known, { ...known, completion_tokens: 100 }]);
    for (const each of entries) expect(each).toMatchObject({ status: 'success', properties: { partial: true } });
  });

  test('a wrapped client records create, also from its own helpers', async () => {
    const { entries, options } = recorder();
    const client = wrapAnthropic(
      {
        messages: {
          create: (_request: object) => apiPromise(message),
          stream(request: object) {
            return this.create(request).withResponse();
          },
        },
      },
      options,
    );
    await client.messages.create({ model: 'claude-sonnet-4-20250514' });
    await client.messages.stream({ model: 'claude-sonnet-4-20250514' });
    expect(entries.map((each) => each.metrics)).toEqual([metrics, metrics]);
  });
});

describe('Google', () => {
  const usageMetadata = {
    promptTokenCount: 900,
    toolUsePromptTokenCount: 100,
    cachedContentTokenCount: 400,
    candidatesTokenCount: 40,
    thoughtsTokenCount: 60,
    totalTokenCount: 1100,
  };
  const chunk = (finishReason?: string) => ({ modelVersion: 'gemini-2.5-pro', candidates: [{ finishReason }] });

  test('adds thoughts to the output and what tools read to the input, once', () => {
    const { entries, options } = recorder();
    recordGoogle({ ...chunk('STOP'), usageMetadata }, options);
    recordGoogle(
      { ...chunk('STOP'), usageMetadata: { ...usageMetadata, trafficType: 'PROVISIONED_THROUGHPUT' } },
      options,
    );
    const metrics = { prompt_tokens: 1000, completion_tokens: 100, cached_tokens: 400, reasoning_tokens: 60 };
    // 600 at 1.25, 400 at 0.125 and 100 at 10 USD for a million.
    expect(entries[0]).toMatchObject({ provider: 'google', model: 'gemini-2.5-pro', metrics });
    expect(entries[0]!.metrics.cost).toBe('0.0018');
    expect(entries[1]!.metrics).toEqual(metrics);
  });

  test('reports no output where none is known, and 0 where the model only thought', () => {
    const { entries, options } = recorder();
    recordGoogle({ usageMetadata: { promptTokenCount: 7 } }, options, { model: 'x' });
    recordGoogle({ usageMetadata: { promptTokenCount: 7, thoughtsTokenCount: 9 } }, options, { model: 'x' });
    recordGoogle({}, options, { model: 'x' });
    expect(entries.map(({ metrics }) => metrics)).toEqual([
      { prompt_tokens: 7 },
      { prompt_tokens: 7, completion_tokens: 9, reasoning_tokens: 9 },
      {},
    ]);
  });

  test('marks a stream that is left or broken as partial', async () => {
    const { entries, options } = recorder();
    for await (const _ of observeGoogle(streamOf<object>({ ...chunk(), usageMetadata }, chunk('STOP')), options)) break;
    await drain(observeGoogle(streamOf<object>({ ...chunk(), usageMetadata }, chunk('STOP')), options));
    expect(entries.map(({ properties }) => properties?.partial)).toEqual([true, undefined]);
  });
});

describe('the AI SDK', () => {
  const usage = {
    inputTokens: { total: 1000, noCache: 600, cacheRead: 400, cacheWrite: undefined },
    outputTokens: { total: 100, text: 40, reasoning: 60 },
  };
  const finishReason = { unified: 'stop' as const, raw: 'stop' };
  const model = (more: object) =>
    new MockLanguageModelV3({ provider: 'openai.chat', modelId: 'gpt-4o', ...more } as never);
  const expected = { provider: 'openai', model: 'gpt-4o', status: 'success', metrics: chatEntry.metrics };

  test('records what generateText did', async () => {
    const { entries, options } = recorder();
    const content = [{ type: 'text' as const, text: 'Hi' }];
    const inner = model({ doGenerate: async () => ({ content, finishReason, usage, warnings: [] }) });
    const { text } = await generateText({
      model: wrapLanguageModel({ model: inner, middleware: tallyMiddleware(options) }),
      prompt: 'Hello',
    });
    expect(text).toBe('Hi');
    expect(entries).toMatchObject([expected]);
  });

  test('records what streamText did', async () => {
    const { entries, options } = recorder();
    const chunks = [
      { type: 'stream-start', warnings: [] },
      { type: 'text-start', id: '1' },
      { type: 'text-delta', id: '1', delta: 'Hi' },
      { type: 'text-end', id: '1' },
      { type: 'finish', finishReason, usage },
    ];
    const inner = model({ doStream: async () => ({ stream: simulateReadableStream({ chunks }) }) });
    const result = streamText({
      model: wrapLanguageModel({ model: inner, middleware: tallyMiddleware(options) }),
      prompt: 'Hello',
    });
    expect(await result.text).toBe('Hi');
    expect(entries).toMatchObject([expected]);
  });

  test('records a failure, and a stream that its reader left', async () => {
    const { entries, options } = recorder();
    const { wrapGenerate, wrapStream } = tallyMiddleware(options);
    const wrapped = { model: { provider: 'openai.chat', modelId: 'gpt-4o' }, params: {} };
    const doGenerate = async () => {
      throw new Error('down');
    };
    await expect(wrapGenerate({ ...wrapped, doGenerate })).rejects.toThrow('down');
    const stream = simulateReadableStream({ chunks: [{ type: 'text-delta' }, { type: 'finish', usage }] });
    const result = await wrapStream({ ...wrapped, doStream: async () => ({ stream }) });
    await result.stream.cancel();
    expect(entries.map(({ status, properties }) => [status, properties?.partial])).toEqual([
      ['failure', undefined],
      ['success', true],
    ]);
  });

  test('takes the zeros of a stream that the vendor never ended for no report', async () => {
    const { entries, options } = recorder();
    const { wrapStream } = tallyMiddleware(options);
    const zeros = { inputTokens: { total: 0, noCache: 0, cacheRead: 0 }, outputTokens: { total: 0, text: 0 } };
    const finish = { type: 'finish', finishReason: { unified: 'other', raw: undefined }, usage: zeros };
    const stream = simulateReadableStream({ chunks: [{ type: 'error' }, finish] });
    const { stream: seen } = await wrapStream({
      model: { provider: 'xai.responses', modelId: 'grok-4' },
      params: {},
      doStream: async () => ({ stream }),
    });
    await drain(seen as unknown as AsyncIterable<unknown>);
    expect(entries).toMatchObject([{ status: 'failure', properties: { partial: true } }]);
    expect(entries[0]!.metrics).toEqual({});
  });

  test('records neither tokens nor a cost where all counts are undefined', async () => {
    const { entries, options } = recorder();
    const { wrapGenerate } = tallyMiddleware(options);
    const nested = {
      inputTokens: { total: undefined, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
      outputTokens: { total: undefined, text: undefined, reasoning: undefined },
    };
    const filled = { inputTokens: { total: 0, noCache: 0 }, outputTokens: { total: 0 }, raw: { prompt_tokens: null } };
    const flat = { inputTokens: undefined, outputTokens: undefined, totalTokens: undefined };
    for (const given of [nested, filled, flat, { ...flat, totalTokens: 15 }, {}])
      await wrapGenerate({
        model: { provider: 'openai.chat', modelId: 'gpt-4o' },
        params: {},
        doGenerate: async () => ({ usage: given }),
      });
    expect(entries.map((each) => each.metrics)).toEqual([{}, {}, {}, {}, {}]);
  });

  test('reads the flat usage of version 5, where Anthropic leaves the cache out of the input', async () => {
    const { entries, options } = recorder();
    const { wrapGenerate } = tallyMiddleware(options);
    const flat = { inputTokens: 5, outputTokens: 7, cachedInputTokens: 100, reasoningTokens: 2 };
    for (const provider of ['openai.chat', 'anthropic.messages']) {
      const params = {};
      const wrapped = { model: { provider, modelId: 'x' }, params };
      await wrapGenerate({
        ...wrapped,
        doGenerate: async () => ({ usage: { ...flat, inputTokens: provider === 'openai.chat' ? 105 : 5 } }),
      });
    }
    const metrics = { prompt_tokens: 105, completion_tokens: 7, cached_tokens: 100, reasoning_tokens: 2 };
    expect(entries.map((each) => each.metrics)).toEqual([metrics, metrics]);
  });
});
