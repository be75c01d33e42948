import { calcPrice, findProvider } from '@pydantic/genai-prices';
import { CALL_SIZES, PRICED_PARTS } from '@tally/contracts';
import type { JournalLine, NewPrice, PricedUnits, PriceRow } from '@tally/db';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decimalOf, readGenaiPrices, readLitellmPrices } from './import.ts';
import { createPriceIndex, createPriceList, matches, priced } from './price-list.ts';

let ids = 1;
type Given = Partial<Omit<PriceRow, 'validFrom' | 'validTo'>> & { validFrom?: string; validTo?: string };

const price = ({ validFrom = '2026-01-01T00:00:00Z', validTo, ...more }: Given): PriceRow => ({
  id: String(ids++),
  provider: '',
  model: '',
  meter: '',
  merchantId: '',
  component: 'input',
  overPromptTokens: '0',
  amount: '1',
  per: '1',
  source: 'set',
  createdAt: new Date(0),
  createdBy: 'admin',
  addedIn: '1',
  removedIn: null,
  ...more,
  validFrom: new Date(validFrom),
  validTo: validTo === undefined ? null : new Date(validTo),
});

const line = (more: Partial<JournalLine> = {}): JournalLine => ({
  merchant_id: 'acme',
  date: '2026-11-22',
  id: 'e1',
  time: Date.parse('2026-11-22T10:00:00Z'),
  requests: '1',
  provider: 'openai',
  model: 'gpt-4o',
  ...more,
});

const listOf = (...prices: PriceRow[]) => {
  const index = createPriceIndex();
  for (const each of prices) index.add(each);
  return createPriceList({ version: '7', index });
};

test('of patterns of one length, the price of the provider wins, then the highest threshold, then the latest', () => {
  const shared = { component: 'input', amount: '1' } as const;
  const cost = (...more: Given[]) => listOf(...more.map(price)).costOf(line({ prompt_tokens: '10' }));
  expect(cost({ ...shared, model: '*4o' }, { ...shared, model: 'gp*', provider: 'openai', amount: '2' })).toBe(
    20_000_000_000n,
  );
  expect(cost({ ...shared, model: '*4o' }, { ...shared, model: 'gp*', overPromptTokens: '5', amount: '3' })).toBe(
    30_000_000_000n,
  );
  const later = '2026-02-01T00:00:00Z';
  expect(cost({ ...shared, model: '*4o' }, { ...shared, model: 'gp*', validFrom: later, amount: '4' })).toBe(
    40_000_000_000n,
  );
});

test('names of the language are no names of prices in a cost map', async () => {
  const file = JSON.stringify({
    a: { litellm_provider: 'openai', input_cost_per_token: 1e-6, constructor: 1, toString: 2 },
  });
  const { prices } = await readLitellmPrices(file, undefined, new Date(0));
  expect(prices.map(({ component }) => component)).toEqual(['input']);
});

describe('the cost of an event', () => {
  const million = { per: '1000000' };
  const list = listOf(
    price({ component: 'input', amount: '2.5', ...million }),
    price({ component: 'cached_input', amount: '1.25', ...million }),
    price({ component: 'output', amount: '10', ...million }),
  );

  test('prices each class once: cached tokens are no input, reasoning is output without a price of its own', () => {
    const event = line({
      prompt_tokens: '1000',
      completion_tokens: '100',
      metrics: { cached_tokens: '400', reasoning_tokens: '60' },
    });
    // 600 × 2.5 + 400 × 1.25 + 100 × 10, for a million.
    expect(list.costOf(event)).toBe(3_000_000n);
    const apart = listOf(price({ component: 'output', amount: '1' }), price({ component: 'reasoning', amount: '3' }));
    expect(apart.costOf(line({ completion_tokens: '10', metrics: { reasoning_tokens: '4' } }))).toBe(18_000_000_000n);
  });

  test('charges a class without a price as the class that it is part of', () => {
    const event = line({ prompt_tokens: '1000', metrics: { cache_write_tokens: '100' } });
    expect(list.costOf(event)).toBe(2_500_000n);
  });

  test.each([
    ['a class has no price', { prompt_tokens: '1', completion_tokens: '1' }, [price({})]],
    ['the classes are more than their sum', { prompt_tokens: '1', metrics: { cached_tokens: '2' } }, [price({})]],
    ['the price has ended', { prompt_tokens: '1' }, [price({ validTo: '2026-11-22T10:00:00Z' })]],
    ['the price has not begun', { prompt_tokens: '1' }, [price({ validFrom: '2026-11-22T10:00:00.001Z' })]],
    [
      'several calls together may or may not be long ones',
      { prompt_tokens: '30', calls: '3' },
      [price({}), price({ overPromptTokens: '20' })],
    ],
  ])('is unknown where %s', (_, event, prices) => {
    expect(listOf(...prices).costOf(line(event))).toBe('unknown');
  });

  test('prices requests of calls that did not fail, and metric types that have a price', () => {
    const requests = listOf(price({ component: 'request', amount: '0.01' }));
    expect(requests.costOf(line({ calls: '3' }))).toBe(30_000_000n);
    expect(requests.costOf(line({ failed: true }))).toBe('nothing');
    const images = listOf(price({ component: 'unit', meter: 'images', amount: '0.04' }));
    expect(images.costOf(line({ metrics: { images: '2', other: '9' } }))).toBe(80_000_000n);
    expect(images.costOf(line({ metrics: { other: '9' } }))).toBe('nothing');
    // 0.25 images, of a metric type with two decimals.
    expect(images.costOf(line({ metrics: { images: '25' } }), () => 2)).toBe(10_000_000n);
  });

  test('prices a long call by the highest threshold that it passes', () => {
    const tiers = listOf(
      price({ amount: '1' }),
      price({ amount: '2', overPromptTokens: '100' }),
      price({ amount: '3', overPromptTokens: '200' }),
    );
    const costs = ['100', '101', '200', '201'].map((prompt_tokens) => tiers.costOf(line({ prompt_tokens })));
    expect(costs).toEqual([100n, 202n, 400n, 603n].map((usd) => usd * 10n ** 9n));
  });

  test('takes the price that held at the time of the event', () => {
    const dated = listOf(
      price({ amount: '1', validFrom: '2026-01-01T00:00:00Z' }),
      price({ amount: '2', validFrom: '2026-11-22T10:00:00Z' }),
    );
    const at = (time: string) => dated.costOf(line({ prompt_tokens: '1', time: Date.parse(time) }));
    expect([at('2026-11-22T09:59:59.999Z'), at('2026-11-22T10:00:00Z')]).toEqual([1_000_000_000n, 2_000_000_000n]);
  });

  test('prefers the more specific price: merchant, then model, then provider', () => {
    const ladder = [
      price({ amount: '1' }),
      price({ amount: '2', provider: 'openai' }),
      price({ amount: '3', model: 'gpt-*' }),
      price({ amount: '4', model: 'gpt-4*' }),
      price({ amount: '5', model: 'gpt-4o' }),
      price({ amount: '6', model: 'gpt-4o', provider: 'openai' }),
      price({ amount: '7', merchantId: 'acme' }),
      price({ amount: '8', merchantId: 'acme', model: 'gpt-4o' }),
    ];
    ladder.forEach((_, top) => {
      const shuffled = [...ladder.slice(0, top + 1)].reverse();
      expect(listOf(...shuffled).costOf(line({ prompt_tokens: '1' }))).toBe(BigInt(top + 1) * 10n ** 9n);
    });
    const others = listOf(...ladder);
    expect(others.costOf(line({ merchant_id: 'bravo', prompt_tokens: '1' }))).toBe(6n * 10n ** 9n);
    expect(listOf(price({ provider: 'azure' })).costOf(line({ prompt_tokens: '1' }))).toBe('unknown');
  });

  test('is the exact sum of all classes, rounded once, half away from zero', () => {
    const amounts = fc.record({
      amount: fc.bigInt(0n, 10n ** 15n),
      per: fc.constantFrom(1n, 3n, 7n, 1000n, 10n ** 6n),
    });
    fc.assert(
      fc.property(fc.tuple(amounts, amounts), fc.nat(50_000), fc.nat(50_000), ([input, output], prompt, completion) => {
        const text = (amount: bigint) => `${amount / 10n ** 12n}.${String(amount % 10n ** 12n).padStart(12, '0')}`;
        const both = listOf(
          price({ component: 'input', amount: text(input.amount), per: String(input.per) }),
          price({ component: 'output', amount: text(output.amount), per: String(output.per) }),
        );
        const cost = both.costOf(line({ prompt_tokens: String(prompt), completion_tokens: String(completion) }));
        if (typeof cost !== 'bigint') return prompt + completion === 0 || cost === 'unknown';
        // |cost − exact| ≤ ½, over the common denominator, and up where it is ½.
        const denominator = input.per * output.per * 1000n;
        const exact = BigInt(prompt) * input.amount * output.per + BigInt(completion) * output.amount * input.per;
        const off = 2n * (cost * denominator - exact);
        return off > -denominator && off <= denominator;
      }),
      { numRuns: 200 },
    );
  });
});

describe('a priced line', () => {
  const list = listOf(price({ amount: '0.5' }));

  test('has its cost and the version of the list before its time, so that the digest has neither', () => {
    const event = line({ prompt_tokens: '3' });
    const text = JSON.stringify(priced(event, list));
    expect(JSON.parse(text)).toEqual({ ...event, price: '7', cost: '1500000000' });
    const digested = (json: string) => json.slice(json.indexOf(',"time":'));
    expect(digested(text)).toBe(digested(JSON.stringify(event)));
  });

  test('is marked where no price is known, and left alone where nothing is to be priced', () => {
    expect(priced(line({ completion_tokens: '3' }), list)).toMatchObject({ price: '0' });
    expect(priced(line({ completion_tokens: '3' }), list)).not.toHaveProperty('cost');
    expect(priced(line({ completion_tokens: '3' }), undefined)).toMatchObject({ price: '0' });
    const untouched = line({ metrics: { images: '2' } });
    expect(priced(untouched, list)).toBe(untouched);
    const unused = line({ completion_tokens: '3' });
    expect(priced(unused, listOf())).toBe(unused);
  });
});

test.each([
  ['gpt-*', 'gpt-4o', true],
  ['gpt-*', 'a-gpt-4o', false],
  ['*gpt*', 'a-gpt-4o', true],
  ['a*b*c', 'abc', true],
  ['a*b*c', 'ac', false],
  ['ab*ba', 'aba', false],
  ['*', '', true],
  ['gpt-4o', 'gpt-4o', true],
])('%s matches %s: %s', (pattern, text, expected) => {
  expect(matches(pattern, text)).toBe(expected);
});

describe('importing', () => {
  const rowsOf = (prices: readonly NewPrice[]): PriceRow[] =>
    prices.map((row, index) => ({
      ...row,
      ...{ id: String(index), createdAt: new Date(0), createdBy: '', addedIn: '1', removedIn: null },
    }));

  test.each([
    ['1.5e-07', 6, '0.15'],
    ['2.5E-6', 6, '2.5'],
    ['0.00000125', 6, '1.25'],
    ['0', 6, '0'],
    ['3', 6, '3000000'],
    ['1.0000000000000000001', 0, undefined],
    ['-1', 0, undefined],
    ['NaN', 0, undefined],
  ])('reads %s times 10^%i as %s', (text, shift, expected) => {
    expect(decimalOf(text, shift)).toBe(expected);
  });

  test('reads a cost map of LiteLLM without a float', async () => {
    const file = JSON.stringify({
      sample_spec: { input_cost_per_token: 0 },
      'azure/gpt-4o': { litellm_provider: 'azure', input_cost_per_token: 1, output_cost_per_token: 1.5e-7 },
      'gemini-pro': {
        litellm_provider: 'vertex_ai',
        input_cost_per_token: 1.25e-6,
        input_cost_per_token_above_200k_tokens: 2.5e-6,
        cache_read_input_token_cost: 3.125e-7,
      },
      image: { litellm_provider: 'openai', input_cost_per_image: 0.04 },
    }).replace('"input_cost_per_token":1,', '"input_cost_per_token":0.000001000000000001,');
    const { prices, skipped } = await readLitellmPrices(file, undefined, new Date('2026-01-01T00:00:00Z'));
    expect(prices.map((row) => [row.model, row.component, row.amount, row.per, row.overPromptTokens])).toEqual([
      ['azure/gpt-4o', 'input', '1.000000000001', '1000000', '0'],
      ['gpt-4o', 'input', '1.000000000001', '1000000', '0'],
      ['azure/gpt-4o', 'output', '0.15', '1000000', '0'],
      ['gpt-4o', 'output', '0.15', '1000000', '0'],
      ['gemini-pro', 'input', '1.25', '1000000', '0'],
      ['gemini-pro', 'cached_input', '0.3125', '1000000', '0'],
      ['gemini-pro', 'input', '2.5', '1000000', '200000'],
    ]);
    expect(skipped).toEqual([{ model: 'image', reason: 'it has no price by tokens or requests' }]);
    await expect(readLitellmPrices('[1]', undefined, new Date())).rejects.toThrow('LiteLLM cost map');
  });

  test('lets others have their turn while it reads a long cost map', async () => {
    const entry = { litellm_provider: 'p', input_cost_per_token: 1e-6, about: 'x'.repeat(500) };
    const file = JSON.stringify(Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`m${n}`, entry])));
    let turns = 0;
    let counting = setImmediate(function count() {
      turns++;
      counting = setImmediate(count);
    });
    const { prices } = await readLitellmPrices(file, undefined, new Date(0));
    clearImmediate(counting);
    expect(prices).toHaveLength(10_000);
    expect(turns).toBeGreaterThan(10);
  });

  test('reads prices of LiteLLM that need more decimals for a million tokens', async () => {
    const file = JSON.stringify({
      dbrx: { litellm_provider: 'databricks', input_cost_per_token: 0 },
    }).replace('token":0', 'token":1.5000020000000002e-06');
    const { prices, skipped } = await readLitellmPrices(file, undefined, new Date(0));
    expect(prices.map(({ component, amount, per }) => [component, amount, per])).toEqual([
      ['input', '1500002.0000000002', '1000000000000'],
    ]);
    expect(skipped).toEqual([]);
  });

  test.each([
    [{ cache_read_input_token_cost: 1e-30 }, 'cache_read_input_token_cost is no price: 1e-30'],
    [{ output_cost_per_token: true }, 'output_cost_per_token is no price: true'],
    [{ input_cost_per_token_above_1m_tokens: 2e-6 }, 'input_cost_per_token_above_1m_tokens is no price of long calls'],
    [
      { tiered_pricing: [{ range: [0, 1000], input_cost_per_token: 1e-30 }] },
      'input_cost_per_token is no price: 1e-30',
    ],
    [{ tiered_pricing: [{ input_cost_per_token: 1e-6 }] }, 'its tiers are no ranges of prompt tokens'],
    [
      { tiered_pricing: [9, 32].map((start) => ({ range: [start, 99], input_cost_per_token: 1e-6 })) },
      'its tiers leave a gap or overlap',
    ],
    [
      {
        tiered_pricing: [
          { range: [0, 32_000], input_cost_per_token: 1e-6, output_cost_per_token: 1e-6 },
          { range: [32_000, 128_000], input_cost_per_token: 2e-6 },
        ],
      },
      'its tiers do not all price the same classes of tokens',
    ],
    [
      { output_cost_per_token: 1e-6, tiered_pricing: [{ range: [0, 1000], input_cost_per_token: 1e-6 }] },
      'its tiers do not all price the same classes of tokens',
    ],
    [{ off_peak_pricing: { hours_utc: '16:30-00:30' } }, 'its prices depend on the time of day'],
    [{ citation_cost_per_token: 2e-6 }, 'its calls cost citations, too'],
    [
      { output_cost_per_token: 0, output_cost_per_image_token: 4e-5 },
      'its output are tokens of images, whose prompts have other prices',
    ],
    [
      { litellm_provider: 'vertex_ai-language-models', input_cost_per_token_above_128k_tokens: 2e-6 },
      'the output of its long calls has a threshold of its own',
    ],
  ])('reads no price of a model of LiteLLM with %j, one of whose prices cannot be kept', async (fields, reason) => {
    const file = JSON.stringify({ m: { litellm_provider: 'p', input_cost_per_token: 1e-6, ...fields } });
    expect(await readLitellmPrices(file, undefined, new Date(0))).toEqual({
      prices: [],
      skipped: [{ model: 'm', reason }],
      unread: new Map(),
    });
  });

  test('reads tiers of LiteLLM: all tokens of a call cost what the tier of its prompt does', async () => {
    const tier = (range: [number, number | null], input: number) => ({
      ...{ range, input_cost_per_token: `${input}e-6`, output_cost_per_token: `${input * 4}e-6` },
      cache_read_input_token_cost: `${input}e-7`,
    });
    const model = {
      ...{ litellm_provider: 'dashscope', input_cost_per_request: 1, input_cost_per_token_above_200k_tokens: 9 },
      tiered_pricing: [tier([32_000, 128_000], 2), tier([0, 32_000], 1), tier([128_000, null], 3)],
    };
    const text = JSON.stringify({ 'dashscope/qwen3-max': model }).replace('[0,32000]', '[0.0,32000.0]');
    const { prices, skipped } = await readLitellmPrices(text, undefined, new Date(0));
    expect([prices.length, skipped]).toEqual([20, []]);
    const list = listOf(...rowsOf(prices));
    const costs = [32_000, 32_001, 128_000, 128_001, 2_000_000].map((prompt) =>
      list.costOf(
        line({
          ...{ provider: 'dashscope', model: 'qwen3-max', prompt_tokens: String(prompt), completion_tokens: '1000' },
          metrics: { cached_tokens: '1000' },
        }),
      ),
    );
    const cost = (prompt: number, rate: number) => 10n ** 9n + BigInt((prompt - 1000 + 100 + 4000) * rate * 1000);
    expect(costs).toEqual([
      ...[cost(32_000, 1), cost(32_001, 2), cost(128_000, 2), cost(128_001, 3), cost(2_000_000, 3)],
    ]);
  });

  test('reads tiers of LiteLLM by something else than tokens as no price, and old names of cached input', async () => {
    const file = JSON.stringify({
      search: {
        ...{ litellm_provider: 'exa_ai', tiered_pricing: [{ input_cost_per_query: 5e-3, max_results_range: [0, 25] }] },
      },
      chat: { litellm_provider: 'deepseek', input_cost_per_token: 1e-6, input_cost_per_token_cache_hit: 1e-7 },
      both: {
        ...{ litellm_provider: 'deepseek', input_cost_per_token: 1e-6, cache_read_input_token_cost: 1e-7 },
        input_cost_per_token_cache_hit: 2e-7,
      },
    });
    const { prices, skipped } = await readLitellmPrices(file, undefined, new Date(0));
    expect(prices.map(({ model, component, amount }) => [model, component, amount])).toEqual([
      ['chat', 'input', '1'],
      ['chat', 'cached_input', '0.1'],
      ['both', 'input', '1'],
      ['both', 'cached_input', '0.1'],
    ]);
    expect(skipped).toEqual([{ model: 'search', reason: 'it has no price by tokens or requests' }]);
  });

  test('does not mix prices of two entries of LiteLLM for one model', async () => {
    const file = JSON.stringify({
      'gemini-exp': { litellm_provider: 'gemini', input_cost_per_token: 0 },
      'gemini/gemini-exp': {
        ...{ litellm_provider: 'gemini', input_cost_per_token: 1e-6, input_cost_per_token_above_128k_tokens: 2e-6 },
      },
    });
    const { prices } = await readLitellmPrices(file, undefined, new Date(0));
    // LiteLLM looks for the name with the provider first.
    expect(prices.map(({ model, amount, overPromptTokens }) => [model, amount, overPromptTokens])).toEqual([
      ['gemini/gemini-exp', '1', '0'],
      ['gemini-exp', '1', '0'],
      ['gemini/gemini-exp', '2', '128000'],
      ['gemini-exp', '2', '128000'],
    ]);
  });

  test('reads long calls of LiteLLM: above the highest threshold of input, at its price or the plain one', async () => {
    const plain = {
      ...{ input_cost_per_token: 1e-6, output_cost_per_token: 2e-6, cache_read_input_token_cost: 1e-7 },
      output_cost_per_token_above_64k_tokens: 9e-6,
    };
    const long = {
      ...{ input_cost_per_token_above_128k_tokens: 3e-6, output_cost_per_token_above_128k_tokens: 4e-6 },
      ...{ input_cost_per_token_above_200k_tokens: 5e-6, output_cost_per_reasoning_token_above_200k_tokens: 7e-6 },
    };
    const file = JSON.stringify({
      m: { litellm_provider: 'openai', ...plain, ...long },
      'xai/m': { litellm_provider: 'xai', ...plain, ...long },
    });
    const { prices } = await readLitellmPrices(file, undefined, new Date(0));
    const list = listOf(...rowsOf(prices));
    const cost = (provider: string, prompt: number) =>
      list.costOf(
        line({
          ...{ provider, model: 'm', prompt_tokens: String(prompt), completion_tokens: '1000' },
          metrics: { cached_tokens: '1000', reasoning_tokens: '500' },
        }),
      );
    const expected = (prompt: number, input: number, output: number) =>
      BigInt((prompt - 1000) * input * 1000 + 1000 * 100 + 1000 * output * 1000);
    for (const provider of ['openai', 'xai']) {
      expect(cost(provider, 100_000)).toBe(expected(100_000, 1, 2));
      expect(cost(provider, 128_001)).toBe(expected(128_001, 3, 4));
      expect(cost(provider, 200_001)).toBe(expected(200_001, 5, 2));
    }
    // Calls of xAI cost more from the threshold on, all others beyond it.
    expect(cost('openai', 128_000)).toBe(expected(128_000, 1, 2));
    expect(cost('xai', 128_000)).toBe(expected(128_000, 3, 4));
    expect(cost('xai', 127_999)).toBe(expected(127_999, 1, 2));
  });

  test('reads classes without a price in a tier of LiteLLM as that tier charges them', async () => {
    const file = JSON.stringify({
      m: {
        litellm_provider: 'dashscope',
        tiered_pricing: [
          {
            ...{ range: [0, 32_000], input_cost_per_token: '1e-6', output_cost_per_token: '2e-6' },
            ...{ cache_read_input_token_cost: '1e-7', output_cost_per_reasoning_token: '3e-6' },
          },
          {
            ...{ range: [32_000, 128_000], input_cost_per_token: '4e-6', output_cost_per_token: '5e-6' },
            cache_read_input_token_cost: '0',
          },
        ],
      },
    });
    const { prices } = await readLitellmPrices(file, undefined, new Date(0));
    expect(
      prices.map(({ component, amount, overPromptTokens }) => `${component} ${amount} ${overPromptTokens}`).sort(),
    ).toEqual([
      ...['cached_input 0.1 0', 'cached_input 4 32000', 'input 1 0', 'input 4 32000'],
      ...['output 2 0', 'output 5 32000', 'reasoning 3 0', 'reasoning 5 32000'],
    ]);
  });

  test('reads models of LiteLLM for the name of their provider that calls have', async () => {
    const entry = (provider: string, price: number) => ({ litellm_provider: provider, input_cost_per_token: price });
    const file = JSON.stringify({
      gemini: entry('vertex_ai-language-models', 1e-6),
      'vertex_ai/gemini': entry('vertex_ai-language-models', 2e-6),
      'anthropic.claude': entry('bedrock_converse', 3e-6),
      'gpt-4o': entry('azure_ai', 4e-6),
    });
    const { prices } = await readLitellmPrices(file, ['vertex_ai', 'bedrock_converse'], new Date(0));
    expect(prices.map(({ provider, model, amount }) => `${provider} ${model} ${amount}`).sort()).toEqual([
      ...['bedrock anthropic.claude 3', 'bedrock_converse anthropic.claude 3'],
      ...['vertex_ai gemini 2', 'vertex_ai vertex_ai/gemini 2'],
      ...['vertex_ai-language-models gemini 1', 'vertex_ai-language-models vertex_ai/gemini 2'],
    ]);
  });

  test.each(['', 'p/', 'a\u0000', '\ud800', '*', 'unknown', '(other)', 'e\u0301', 'x'.repeat(257), '😀'.repeat(101)])(
    'skips models of LiteLLM with the name %j, which no call can have',
    async (name) => {
      const price = { input_cost_per_token: 1e-6 };
      for (const map of [
        { [name]: { litellm_provider: 'p', ...price } },
        { m: { litellm_provider: name, ...price } },
      ]) {
        const { prices, skipped } = await readLitellmPrices(JSON.stringify(map), undefined, new Date(0));
        if (name === 'p/' && 'm' in map) continue;
        expect([prices, skipped.map(({ reason }) => reason)]).toEqual([[], ['it has no provider, or no usable name']]);
      }
    },
  );

  test('names the prices of imported models that it does not read', async () => {
    const model = { litellm_provider: 'openai', input_cost_per_token: 1e-6, input_cost_per_audio_token: 4e-5 };
    const file = JSON.stringify({
      a: { ...model, output_cost_per_token_flex: 0, cache_read_input_token_cost_above_200k_tokens: 1e-6 },
      b: { ...model, regional_processing_uplift_multiplier_eu: 1.1, search_context_cost_per_query: null },
      image: { litellm_provider: 'openai', output_cost_per_image: 1 },
    });
    const { unread } = await readLitellmPrices(file, undefined, new Date(0));
    expect(Object.fromEntries(unread)).toEqual({
      input_cost_per_audio_token: 2,
      regional_processing_uplift_multiplier_eu: 1,
    });
    expect(readGenaiPrices(['openai'], new Date()).unread.get('input_audio_mtok')).toBeGreaterThan(0);
  });

  test('does not read tokens of LiteLLM as free where calls are charged by something else', async () => {
    const free = { litellm_provider: 'cohere', input_cost_per_token: 0, output_cost_per_token: 0 };
    const file = JSON.stringify({ rerank: { ...free, input_cost_per_query: 0.002 }, free });
    const { prices, skipped } = await readLitellmPrices(file, undefined, new Date(0));
    expect(prices.map(({ model, component, amount }) => [model, component, amount])).toEqual([
      ['free', 'input', '0'],
      ['free', 'output', '0'],
    ]);
    expect(skipped).toEqual([{ model: 'rerank', reason: 'it has no price by tokens or requests' }]);
  });

  test('reads names of genai-prices with a date, ids of models whose rule is no pattern, and prices of requests', () => {
    const since = new Date('2026-11-01T00:00:00Z');
    const { prices, skipped } = readGenaiPrices(['anthropic', 'google', 'perplexity', 'openai'], since);
    const models = new Set(prices.map(({ model }) => model));
    expect([...models].filter((model) => model.startsWith('claude-opus-5-'))).toEqual(
      expect.arrayContaining(['claude-opus-5-20*', 'claude-opus-5-5', 'claude-opus-5-5-20*']),
    );
    expect(models).toContain('gpt-6-sol-20*');
    expect(models).toContain('gemini-2.5-pro');
    expect(models).not.toContain('gemini-2.5-pro*');
    expect(prices.find(({ model, component }) => model === 'sonar-pro' && component === 'request')).toMatchObject({
      ...{ amount: '14', per: '1000' },
    });
    expect(skipped).toEqual(
      expect.arrayContaining([
        { model: 'google/gemini-2.5-pro', reason: 'some of its names are found by a rule that is no pattern' },
        { model: 'openai/whisper-1', reason: 'it has no price by tokens or requests' },
      ]),
    );
  });

  test('reads list prices of genai-prices, which price a call as its own calculation does', () => {
    const providers = ['anthropic', 'openai', 'google', 'deepseek', 'x-ai', 'aws'];
    const { prices, skipped } = readGenaiPrices(providers, new Date('2026-01-01T00:00:00Z'));
    expect(skipped.map(({ reason }) => reason)).toContain('its prices depend on the time of day');
    const list = listOf(...rowsOf(prices));
    const models = providers.flatMap((providerId) =>
      findProvider({ providerId })!.models.map(({ id }) => ({ providerId, model: id })),
    );
    const call = fc.record({
      about: fc.constantFrom(...models),
      prompt: fc.constantFrom(1_000, ...CALL_SIZES.flatMap((size) => [size, size + 1])),
      cached: fc.constantFrom(0, 500),
      written: fc.constantFrom(0, 300),
      time: fc.constantFrom('2026-02-01T12:00:00Z', '2026-11-20T05:00:00Z', '2027-02-01T00:00:00Z'),
    });
    let told = 0;
    fc.assert(
      fc.property(call, ({ about: { providerId, model }, prompt, cached, written, time }) => {
        const usage = {
          input_tokens: prompt,
          cache_read_tokens: cached,
          cache_write_tokens: written,
          output_tokens: 9,
        };
        const cost = list.costOf(
          line({
            ...{ provider: providerId, model, time: Date.parse(time), completion_tokens: '9' },
            prompt_tokens: String(prompt),
            metrics: { cached_tokens: String(cached), cache_write_tokens: String(written) },
          }),
        );
        if (typeof cost !== 'bigint') return;
        told++;
        const theirs = calcPrice(usage, model, { providerId, timestamp: new Date(time) })!;
        // Theirs are floats.
        expect(Math.abs(Number(cost) - theirs.total_price * 1e9)).toBeLessThan(2);
      }),
      { numRuns: 500 },
    );
    expect(told).toBeGreaterThan(200);
  });
});

describe('the rates of a day', () => {
  const parts = fc.record({
    input: fc.nat(9),
    cached: fc.nat(3),
    written: fc.nat(3),
    output: fc.nat(9),
    reasoning: fc.nat(3),
    failed: fc.boolean(),
  });
  const ruled = fc.record({
    component: fc.constantFrom('input', 'cached_input', 'cache_write', 'output', 'reasoning', 'request'),
    amount: fc.integer({ min: 1, max: 9 }).map(String),
    model: fc.constantFrom('', 'gpt-4o', 'gpt-*'),
    overPromptTokens: fc.constantFrom('0', '0', '200000', '250000'),
    validFrom: fc.constantFrom(
      '2026-01-01T00:00:00Z',
      '2026-11-22T00:00:00Z',
      '2026-11-22T12:00:00Z',
      '2026-11-23T00:00:00Z',
    ),
    validTo: fc.constantFrom(undefined, undefined, '2026-11-22T18:00:00Z', '2027-01-01T00:00:00Z'),
  });

  test('make the same of the sums of events as pricing each event, or say that they cannot', () => {
    let told = 0;
    fc.assert(
      fc.property(
        fc.array(ruled, { minLength: 1, maxLength: 8 }),
        fc.array(parts, { minLength: 1, maxLength: 5 }),
        // Sizes with room for all tokens of the events.
        fc.constantFrom(0, 1, 3, 4),
        fc.boolean(),
        (rules, events, size, many) => {
          const list = listOf(...rules.map((rule) => price({ ...rule, per: '1000' } as Given)));
          const least = size === 0 ? 0 : CALL_SIZES[size - 1]! + 1;
          const lines = events.map(({ input, cached, written, output, reasoning, failed }, index) =>
            line({
              time: Date.parse('2026-11-22T00:00:00Z') + index * 4 * 3_600_000,
              ...(failed && { failed: true as const }),
              ...(many && { calls: '2' }),
              prompt_tokens: String(least + input + cached + written),
              completion_tokens: String(output + reasoning),
              metrics: {
                cached_tokens: String(cached),
                cache_write_tokens: String(written),
                reasoning_tokens: String(reasoning),
              },
            }),
          );
          const sum = (of: (event: (typeof events)[number]) => number) =>
            BigInt(events.reduce((all, event) => all + of(event), 0));
          const units: PricedUnits = {
            priced_requests: sum(({ failed }) => (failed ? 0 : many ? 2 : 1)),
            priced_input_tokens: sum(({ input }) => least + input),
            priced_cached_tokens: sum(({ cached }) => cached),
            priced_cache_write_tokens: sum(({ written }) => written),
            priced_output_tokens: sum(({ output }) => output),
            priced_reasoning_tokens: sum(({ reasoning }) => reasoning),
          };
          const calls = {
            ...{ merchant_id: 'acme', provider: 'openai', model: 'gpt-4o', date: '2026-11-22' },
            call_size: many ? -size : size,
          };
          const rates = list.ratesOf(calls, units, new Set());
          const costs = lines.map((each) => list.costOf(each));
          if (rates === 'unclear') return;
          if (rates === 'unknown') expect(costs.some((cost) => typeof cost === 'bigint')).toBe(false);
          else {
            told++;
            expect(rates.per).toBe(1n);
            const fresh = PRICED_PARTS.reduce((all, part) => all + units[part] * rates.amounts[part], 0n);
            expect(fresh).toBe(costs.reduce<bigint>((all, cost) => all + (typeof cost === 'bigint' ? cost : 0n), 0n));
            expect(costs).not.toContain('unknown');
          }
        },
      ),
      { numRuns: 500 },
    );
    expect(told).toBeGreaterThan(0);
  });
});
