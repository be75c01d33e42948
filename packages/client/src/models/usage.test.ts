import fc from 'fast-check';
import { expect, test } from 'vitest';
import { recordAnthropic } from './anthropic.ts';
import { recordOpenAI } from './openai.ts';
import { aiSdk5Convention, count, tokensOf } from './usage.ts';

const tokens = fc.nat(1_000_000);
const place = fc.constantFrom('inside' as const, 'beside' as const);

test('gives the true counts whatever a provider includes, with or without a total', () => {
  const truth = fc.record({ fresh: tokens, cacheRead: tokens, cacheWrite: tokens, text: tokens, reasoning: tokens });
  fc.assert(
    fc.property(truth, place, place, fc.boolean(), (parts, cache, reasoning, hasTotal) => {
      const prompt = parts.fresh + parts.cacheRead + parts.cacheWrite;
      const completion = parts.text + parts.reasoning;
      const input = cache === 'inside' ? prompt : parts.fresh;
      const output = reasoning === 'inside' ? completion : parts.text;
      // The total is the vendor's input and all of its output.
      const total = hasTotal ? input + completion : undefined;
      const reported = { input, output, total, ...parts };
      expect(tokensOf(reported, { cache, reasoning })).toMatchObject({ prompt, completion });
    }),
  );
});

test('finds by the total that the output leaves out reasoning, whatever the convention says', () => {
  const inside = { cache: 'inside', reasoning: 'inside' } as const;
  expect(tokensOf({ input: 10, output: 120, reasoning: 100, total: 130 }, inside).completion).toBe(120);
  expect(tokensOf({ input: 10, output: 120, reasoning: 100, total: 230 }, inside).completion).toBe(220);
  expect(tokensOf({ input: 10, output: 20, reasoning: 100 }, inside).completion).toBe(120);
  expect(tokensOf({ input: 86, cacheRead: 17_817 }, inside).prompt).toBe(17_903);
});

test('takes for a count only what is a whole number from 0 on', () => {
  for (const value of [undefined, null, '12', '', -1, 1.5, Number.NaN, Infinity, 2 ** 60, {}, [], true, 12n])
    expect(count(value)).toBeUndefined();
  expect([count(0), count(12)]).toEqual([0, 12]);
});

test('finds the vendor of an AI SDK 5 provider by its whole name, and of a gateway by the model', () => {
  const beside = { cache: 'beside', reasoning: 'inside' };
  for (const name of [
    'anthropic.messages',
    'vertex.anthropic.messages',
    'bedrock.anthropic.messages',
    'amazon-bedrock',
  ])
    expect(aiSdk5Convention(name, undefined), name).toEqual(beside);
  for (const name of ['google.generative-ai', 'google.vertex.chat', 'vertex.chat'])
    expect(aiSdk5Convention(name, undefined), name).toEqual({ cache: 'inside', reasoning: 'beside' });
  for (const name of ['openai.chat', 'azure.chat', 'xai.chat', 'vertex.maas.chat', 'openrouter', ''])
    expect(aiSdk5Convention(name, undefined), name).toEqual({ cache: 'inside', reasoning: 'inside' });
  expect(aiSdk5Convention('gateway', 'anthropic/claude-sonnet-4')).toEqual(beside);
  expect(aiSdk5Convention('openrouter', 'anthropic/claude-sonnet-4').cache).toBe('inside');
});

test('records neither tokens nor a cost for usage that reports nothing it can count', () => {
  const entries: object[] = [];
  const tally = {
    record(entry: object) {
      entries.push(JSON.parse(JSON.stringify(entry)));
      return { ok: true } as const;
    },
  };
  const options = { tally, attributes: { merchantId: 'm' } };
  const nothing = [
    undefined,
    null,
    {},
    { prompt_tokens: null, completion_tokens: null, input_tokens: null, output_tokens: null },
    { prompt_tokens: '12', completion_tokens: '3', input_tokens: '12', output_tokens: '3' },
    { total_tokens: 15 },
    { prompt_tokens: -1, completion_tokens: 1.5, input_tokens: Number.NaN, output_tokens: -3, cost: Number.NaN },
  ];
  for (const usage of nothing) {
    recordOpenAI({ model: 'gpt-4o', usage }, options);
    recordAnthropic({ model: 'claude-sonnet-4-20250514', usage }, options);
  }
  expect(entries).toHaveLength(2 * nothing.length);
  for (const entry of entries) expect(entry).toMatchObject({ status: 'success', metrics: {} });
  entries.length = 0;
  recordOpenAI({ model: 'gpt-4o', usage: { prompt_tokens: 7 } }, options);
  expect(entries).toMatchObject([{ metrics: { prompt_tokens: 7 } }]);
  expect(entries[0]).not.toHaveProperty('metrics.cost');
});
