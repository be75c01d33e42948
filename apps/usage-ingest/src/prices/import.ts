import { findProvider } from '@pydantic/genai-prices';
import { type PriceComponent, TallyError } from '@tally/contracts';
import type { NewPrice } from '@tally/db';

export type Imported = { prices: NewPrice[]; skipped: { model: string; reason: string }[] };

/** The providers of genai-prices that are imported by default. */
const PROVIDERS = [
  ...['openai', 'anthropic', 'google', 'azure', 'aws', 'mistral', 'deepseek', 'groq', 'cohere', 'x-ai'],
  ...['together', 'fireworks', 'cerebras', 'perplexity', 'moonshotai'],
];

const MILLION = 1_000_000;

/**
 * The names that genai-prices uses for prices of a million tokens of each class. Prices of other units have no token
 * class.
 */
const GENAI: Record<string, PriceComponent> = {
  input_mtok: 'input',
  cache_read_mtok: 'cached_input',
  cache_write_mtok: 'cache_write',
  output_mtok: 'output',
  output_reasoning_mtok: 'reasoning',
};

/** The names that LiteLLM uses for prices of one token of each class. */
const LITELLM = new Map<string, PriceComponent>(
  Object.entries({
    input_cost_per_token: 'input',
    cache_read_input_token_cost: 'cached_input',
    cache_creation_input_token_cost: 'cache_write',
    output_cost_per_token: 'output',
    output_cost_per_reasoning_token: 'reasoning',
    input_cost_per_request: 'request',
  }),
);
/** Prices of long calls: `input_cost_per_token_above_200k_tokens`. */
const ABOVE = /^(.+)_above_(\d{1,6})k_tokens$/;

type Base = { provider: string; model: string; source: string; validFrom: Date; validTo: Date | null };

/**
 * Reads list prices of the installed `@pydantic/genai-prices`. Its data are JavaScript numbers, whose shortest decimal
 * is the original text. Skips models with prices by time of day, and those matched by a regular expression.
 */
export function readGenaiPrices(providers: readonly string[] = PROVIDERS, validFrom: Date): Imported {
  const result: Imported = { prices: [], skipped: [] };
  for (const providerId of providers) {
    const provider = findProvider({ providerId });
    if (!provider || provider.id !== providerId)
      throw new TallyError('NOT_FOUND', `genai-prices has no provider ${providerId}.`);
    for (const model of provider.models) {
      const name = `${providerId}/${model.id}`;
      const skip = (reason: string) => result.skipped.push({ model: name, reason });
      const patterns = patternsOf(model.match);
      if (patterns === undefined) {
        skip('its models are found by a rule that is no pattern');
        continue;
      }
      const dated: Dated[] = Array.isArray(model.prices) ? model.prices : [{ prices: model.prices }];
      const starts: { from: Date; prices: ModelPrices }[] = [];
      for (const { constraint, prices } of dated) {
        if (constraint === undefined) starts.push({ from: new Date(0), prices });
        else if (constraint.type === 'start_date')
          starts.push({ from: new Date(`${constraint.start_date}T00:00:00Z`), prices });
      }
      if (starts.length < dated.length) {
        skip('its prices depend on the time of day');
        continue;
      }
      starts.sort((a, b) => Number(a.from) - Number(b.from));
      starts.forEach(({ from, prices }, at) => {
        const validTo = starts[at + 1]?.from ?? null;
        // A price that ended before the import begins is never valid.
        if (validTo !== null && validTo <= validFrom) return;
        const begin = from < validFrom ? validFrom : from;
        for (const [key, component] of Object.entries(GENAI)) {
          const price = prices[key];
          if (price === undefined) continue;
          const rates =
            typeof price === 'number'
              ? [{ start: 0, price }]
              : [
                  { start: 0, price: price.base },
                  ...price.tiers.map((tier) => ({ start: tier.start, price: tier.price })),
                ];
          for (const { start, price: dollars } of rates) {
            const amount = decimalOf(String(dollars));
            if (amount === undefined) {
              skip(`${key} is no price: ${dollars}`);
              continue;
            }
            for (const pattern of patterns) {
              const about = { provider: providerId, model: pattern, source: 'genai-prices', validFrom: begin, validTo };
              result.prices.push(priceOf(about, component, { amount, per: MILLION, over: start }));
            }
          }
        }
      });
    }
  }
  return { ...result, prices: withoutRepeats(result.prices) };
}

type Model = NonNullable<ReturnType<typeof findProvider>>['models'][number];
type Match = Model['match'];
type Dated = Extract<Model['prices'], readonly unknown[]>[number];
type ModelPrices = Dated['prices'];

/** Returns the patterns equivalent to a rule; undefined if there are none. */
function patternsOf(match: Match): string[] | undefined {
  if ('equals' in match) return literal(match.equals, (text) => text);
  if ('starts_with' in match) return literal(match.starts_with, (text) => `${text}*`);
  if ('ends_with' in match) return literal(match.ends_with, (text) => `*${text}`);
  if ('contains' in match) return literal(match.contains, (text) => `*${text}*`);
  if (!('or' in match)) return undefined;
  const all = match.or.map(patternsOf);
  return all.some((patterns) => patterns === undefined) ? undefined : [...new Set(all.flat() as string[])];
}

const literal = (text: string, pattern: (text: string) => string) => (text.includes('*') ? undefined : [pattern(text)]);

/**
 * Reads LiteLLM's `model_prices_and_context_window.json`. Reads numbers as text, never as floats. A model has two names
 * if its key begins with its provider: `azure/gpt-4o` is also `gpt-4o` of azure.
 */
export function readLitellmPrices(file: string, providers: readonly string[] | undefined, validFrom: Date): Imported {
  const result: Imported = { prices: [], skipped: [] };
  for (const [key, value] of Object.entries(parseExactly(file))) {
    if (key === 'sample_spec') continue;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      result.skipped.push({ model: key, reason: 'it is no object' });
      continue;
    }
    const fields = value as Record<string, unknown>;
    const provider = fields.litellm_provider;
    if (typeof provider !== 'string' || provider === '' || key.length > 256 || key.includes('*')) {
      result.skipped.push({ model: key.slice(0, 256), reason: 'it has no provider, or no usable name' });
      continue;
    }
    if (providers && !providers.includes(provider)) continue;
    const models = key.startsWith(`${provider}/`) ? [key, key.slice(provider.length + 1)] : [key];
    let found = 0;
    for (const [name, text] of Object.entries(fields)) {
      const [, plainName, thousands] = ABOVE.exec(name) ?? [];
      const component = LITELLM.get(plainName ?? name);
      if (component === undefined || typeof text !== 'string') continue;
      const perMillion = component !== 'request';
      const amount = decimalOf(text, perMillion ? 6 : 0);
      if (amount === undefined) {
        result.skipped.push({ model: key, reason: `${name} is no price: ${text.slice(0, 40)}` });
        continue;
      }
      found++;
      const rate = { amount, per: perMillion ? MILLION : 1, over: Number(thousands ?? 0) * 1000 };
      for (const model of models)
        result.prices.push(priceOf({ provider, model, source: 'litellm', validFrom, validTo: null }, component, rate));
    }
    if (found === 0) result.skipped.push({ model: key, reason: 'it has no price by tokens or requests' });
  }
  return { ...result, prices: withoutRepeats(result.prices) };
}

function priceOf(
  about: Base,
  component: PriceComponent,
  { amount, per, over }: { amount: string; per: number; over: number },
): NewPrice {
  return { ...about, meter: '', merchantId: '', component, overPromptTokens: String(over), amount, per: String(per) };
}

/** Keeps the first price of each key: an earlier model of the source wins, like there. */
function withoutRepeats(prices: readonly NewPrice[]): NewPrice[] {
  const first = new Map<string, NewPrice>();
  for (const price of prices) {
    const { provider, model, component, overPromptTokens, validFrom } = price;
    const key = JSON.stringify([provider, model, component, overPromptTokens, Number(validFrom)]);
    if (!first.has(key)) first.set(key, price);
  }
  return [...first.values()];
}

const NUMBER = /^(\d{1,20})(?:\.(\d{1,30}))?(?:e([+-]?\d{1,3}))?$/i;
const DECIMALS = 12;

/** Returns a number's text times 10^shift as a plain decimal; undefined if it needs more than 12 decimals. */
export function decimalOf(text: string, shift = 0): string | undefined {
  const [, whole, fraction = '', exponent = '0'] = NUMBER.exec(text) ?? [];
  if (whole === undefined) return undefined;
  const places = fraction.length - Number(exponent) - shift;
  const digits = `${whole}${fraction}${'0'.repeat(Math.max(0, -places))}`.padStart(places + 1, '0');
  const point = digits.length - Math.max(0, places);
  const decimals = digits.slice(point).replace(/0+$/, '');
  const units = digits.slice(0, point).replace(/^0+(?=\d)/, '');
  if (decimals.length > DECIMALS || units.length > DECIMALS) return undefined;
  return decimals === '' ? units : `${units}.${decimals}`;
}

/** Parses JSON with every number as its own text: no amount goes through a float. */
function parseExactly(file: string): Record<string, unknown> {
  try {
    const text = file.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
      token.startsWith('"') ? token : `"${token}"`,
    );
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Reported below.
  }
  throw new TallyError('INVALID_INPUT', 'file: Expected the JSON object of a LiteLLM cost map.');
}
