import { setImmediate as nextTurn } from 'node:timers/promises';
import { calcPrice, findProvider } from '@pydantic/genai-prices';
import { MatchedDimension, type PriceComponent, TallyError } from '@tally/contracts';
import type { NewPrice } from '@tally/db';
import { exactEntries } from '@tally/service';
import { z } from 'zod';

export type Imported = {
  prices: NewPrice[];
  skipped: { model: string; reason: string }[];
  /** The names of prices that were not read, and how many models have them beside those that were. */
  unread: Map<string, number>;
};

/** The providers of genai-prices that are imported by default. */
const PROVIDERS = [
  ...['openai', 'anthropic', 'google', 'azure', 'aws', 'mistral', 'deepseek', 'groq', 'cohere', 'x-ai'],
  ...['together', 'fireworks', 'cerebras', 'perplexity', 'moonshotai'],
];

const MILLION = 1_000_000;

type Unit = { component: PriceComponent; per: number };
const tokens = (component: PriceComponent): Unit => ({ component, per: MILLION });

/** The names that genai-prices uses for prices of tokens and requests. The others have no class that Tally counts. */
const GENAI: Record<string, Unit> = {
  input_mtok: tokens('input'),
  cache_read_mtok: tokens('cached_input'),
  cache_write_mtok: tokens('cache_write'),
  output_mtok: tokens('output'),
  output_reasoning_mtok: tokens('reasoning'),
  requests_kcount: { component: 'request', per: 1_000 },
};

/** The names that LiteLLM uses for prices of one token of each class. */
const LITELLM = new Map<string, PriceComponent>(
  Object.entries({
    input_cost_per_token: 'input',
    cache_read_input_token_cost: 'cached_input',
    cache_creation_input_token_cost: 'cache_write',
    output_cost_per_token: 'output',
    output_cost_per_reasoning_token: 'reasoning',
    // The old name of cache_read_input_token_cost.
    input_cost_per_token_cache_hit: 'cached_input',
    input_cost_per_request: 'request',
  }),
);
/** Prices of long calls: `input_cost_per_token_above_200k_tokens`. */
const ABOVE = /^(.+)_above_(\w+)_tokens$/;
const THOUSANDS = /^(\d{1,6})k$/;

/** A price of `per` units in calls with more than `over` prompt tokens. */
type ListRate = { component: PriceComponent; over: number; amount: string; per: number };
type Base = { provider: string; model: string; source: string; validFrom: Date; validTo: Date | null };

/**
 * Reads list prices of the installed `@pydantic/genai-prices`. Its data are JavaScript numbers, whose shortest decimal
 * is the original text. Skips models with prices by time of day, and names that are matched by a rule without a pattern.
 */
export function readGenaiPrices(providers: readonly string[] = PROVIDERS, validFrom: Date): Imported {
  const result: Imported = { prices: [], skipped: [], unread: new Map() };
  const named = createNamed();
  for (const providerId of providers) {
    const provider = findProvider({ providerId });
    if (!provider || provider.id !== providerId)
      throw new TallyError('NOT_FOUND', `genai-prices has no provider ${providerId}.`);
    for (const model of provider.models) {
      const name = `${providerId}/${model.id}`;
      const skip = (reason: string) => result.skipped.push({ model: name, reason });
      const { patterns, isWhole } = namesOf(model, providerId);
      if (patterns.length === 0) {
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
      const own: NewPrice[] = [];
      const unread = new Set<string>();
      let unreadable: string | undefined;
      starts.forEach(({ from, prices }, at) => {
        const validTo = starts[at + 1]?.from ?? null;
        // A price that ended before the import begins is never valid.
        if (validTo !== null && validTo <= validFrom) return;
        const begin = from < validFrom ? validFrom : from;
        for (const [key, price] of Object.entries(prices))
          if (price !== undefined && !Object.hasOwn(GENAI, key)) unread.add(key);
        for (const [key, { component, per }] of Object.entries(GENAI)) {
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
              unreadable = `${key} is no price: ${dollars}`;
              continue;
            }
            for (const pattern of patterns) {
              const about = { provider: providerId, model: pattern, source: 'genai-prices', validFrom: begin, validTo };
              own.push(priceOf(about, { component, amount, per, over: start }));
            }
          }
        }
      });
      if (unreadable !== undefined) {
        skip(unreadable);
        continue;
      }
      if (own.length === 0) skip(NO_PRICE_READ);
      else if (!isWhole) skip('some of its names are found by a rule that is no pattern');
      result.prices.push(...named.first(own));
      if (own.length > 0) countUnread(result, unread);
    }
  }
  return result;
}

function countUnread({ unread }: Imported, names: Iterable<string>): void {
  for (const name of names) unread.set(name, (unread.get(name) ?? 0) + 1);
}

type Model = NonNullable<ReturnType<typeof findProvider>>['models'][number];
type Match = Model['match'];
type Dated = Extract<Model['prices'], readonly unknown[]>[number];
type ModelPrices = Dated['prices'];

type Names = { patterns: string[]; isWhole: boolean };

/** The names of a model: patterns for its rule. Where they are not all that it matches, its id is among them. */
function namesOf({ id, match }: Model, providerId: string): Names {
  const names = patternsOf(match);
  const isFound = !names.isWhole && calcPrice({}, id, { providerId })?.model.id === id;
  return { ...names, patterns: [...new Set(isFound ? [...names.patterns, id] : names.patterns)] };
}

/** Returns patterns that match only what a rule does, and whether they match all of it. */
function patternsOf(match: Match): Names {
  if ('equals' in match) return literal(match.equals, (text) => text);
  if ('starts_with' in match) return literal(match.starts_with, (text) => `${text}*`);
  if ('ends_with' in match) return literal(match.ends_with, (text) => `*${text}`);
  if ('contains' in match) return literal(match.contains, (text) => `*${text}*`);
  if ('regex' in match) {
    // Dates begin with the century.
    const [, name] = DATED.exec(match.regex) ?? [];
    return name === undefined ? NO_NAMES : literal(name.replaceAll('\\', ''), (text) => `${text}20*`);
  }
  if (!('or' in match)) return NO_NAMES;
  const all = match.or.map(patternsOf);
  return { patterns: all.flatMap(({ patterns }) => patterns), isWhole: all.every(({ isWhole }) => isWhole) };
}

const NO_NAMES: Names = { patterns: [], isWhole: false };
/** A rule for a name with a date behind it: `^claude-opus-5-\d{8}$` or `^gpt-6-sol-\d{4}-\d{2}-\d{2}$`. */
const DATED = /^\^((?:[\w/-]|\\\.)+-)\\d\{(?:8\}|4\}-\\d\{2\}-\\d\{2\})\$$/;

const literal = (text: string, pattern: (text: string) => string): Names =>
  text.includes('*') ? NO_NAMES : { patterns: [pattern(text)], isWhole: true };

/**
 * Reads LiteLLM's `model_prices_and_context_window.json`, so that a call of the standard service tier costs what it does
 * there. Reads numbers as text, never as floats. A model has two names if its key begins with its provider:
 * `azure/gpt-4o` is also `gpt-4o` of azure, before an entry `gpt-4o` of azure.
 */
export async function readLitellmPrices(
  file: string,
  providers: readonly string[] | undefined,
  validFrom: Date,
): Promise<Imported> {
  const result: Imported = { prices: [], skipped: [], unread: new Map() };
  const named = createNamed();
  /** Entries whose keys do not begin with their provider. */
  const later: NewPrice[][] = [];
  let read = 0;
  for (const [key, value] of await entriesOf(file)) {
    if (++read % ENTRIES_AT_ONCE === 0) await nextTurn();
    if (key === 'sample_spec') continue;
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      result.skipped.push({ model: key, reason: 'it is no object' });
      continue;
    }
    const fields = value as Record<string, unknown>;
    const { litellm_provider: provider } = fields;
    if (!isName(provider) || !isName(key) || !isName(key.slice(key.indexOf('/') + 1))) {
      result.skipped.push({ model: key.slice(0, 256), reason: 'it has no provider, or no usable name' });
      continue;
    }
    const names = namesOfProvider(provider);
    if (providers && !names.some((name) => providers.includes(name))) continue;
    const rates = ratesOfEntry(fields, provider);
    if (typeof rates === 'string') {
      result.skipped.push({ model: key, reason: rates });
      continue;
    }
    countUnread(result, unreadOf(fields));
    const own = rates.flatMap((rate) =>
      names.flatMap((name) =>
        modelsOf(key, name).map((model) =>
          priceOf({ provider: name, model, source: 'litellm', validFrom, validTo: null }, rate),
        ),
      ),
    );
    if (names.some((name) => modelsOf(key, name).length > 1)) result.prices.push(...named.first(own));
    else later.push(own);
  }
  for (const [at, own] of later.entries()) {
    if (at % ENTRIES_AT_ONCE === 0) await nextTurn();
    result.prices.push(...named.first(own));
  }
  return result;
}

/** Returns true for what calls can have as the name of a model or a provider. An empty one would match any. */
const isName = (name: unknown): name is string =>
  typeof name === 'string' && name !== '' && !name.includes('*') && MatchedDimension.safeParse(name).data === name;

/** The names that calls of a provider use for an entry. */
const modelsOf = (key: string, provider: string): string[] =>
  key.startsWith(`${provider}/`) ? [key, key.slice(provider.length + 1)] : [key];

/** Providers with several names in the map; calls have the short one. */
const FAMILY = /^(vertex_ai|bedrock|fireworks_ai)[-_]/;

function namesOfProvider(provider: string): string[] {
  const [, family] = FAMILY.exec(provider) ?? [];
  return family === undefined ? [provider] : [family, provider];
}

/** Names of fields that change what calls cost. */
const PRICE_NAME = /cost|pric|multiplier|provider_specific_entry/;

function unreadOf(fields: Record<string, unknown>): string[] {
  const isRead = (name: string) => {
    const [, plainName, limit] = ABOVE.exec(name) ?? [];
    return LITELLM.has(plainName ?? name) && (limit === undefined || THOUSANDS.test(limit));
  };
  return Object.entries(fields).flatMap(([name, value]) =>
    PRICE_NAME.test(name) && !FREE.test(`${value}`) && name !== 'tiered_pricing' && !isRead(name) ? [name] : [],
  );
}

const FREE = /^(null|[0.]+(e.*)?)$/i;

/** Returns the rates of an entry of LiteLLM, or why it is skipped: without one of its rates, calls would cost too little. */
function ratesOfEntry(
  { tiered_pricing: tiers, ...fields }: Record<string, unknown>,
  provider: string,
): ListRate[] | string {
  const isFree = (name: string) => FREE.test(`${fields[name] ?? null}`);
  if (!isFree('off_peak_pricing')) return 'its prices depend on the time of day';
  if (!isFree('citation_cost_per_token')) return 'its calls cost citations, too';
  if (isFree('output_cost_per_token') && !isFree('output_cost_per_image_token'))
    return 'its output are tokens of images, whose prompts have other prices';
  const flat = flatRates(fields);
  if (typeof flat === 'string') return flat;
  const rates = tiers === undefined || tiers === null ? longRates(flat, provider) : tieredRates(tiers, flat);
  return rates.length === 0 ? NO_PRICE_READ : rates;
}

/** Returns the rates of the plain fields of an entry or a tier, the first one of each class. */
function flatRates(fields: Record<string, unknown>): ListRate[] | string {
  const rates = new Map<string, ListRate>();
  let costsOtherwise = false;
  for (const [name, value] of Object.entries(fields)) {
    if (value === null) continue;
    const [, plainName, limit] = ABOVE.exec(name) ?? [];
    const component = LITELLM.get(plainName ?? name);
    if (component === undefined) {
      costsOtherwise ||= typeof value === 'string' && name.includes('cost') && /[1-9]/.test(value);
      continue;
    }
    const [, thousands] = THOUSANDS.exec(limit ?? '0k') ?? [];
    if (thousands === undefined) return `${name} is no price of long calls`;
    const rate = rateOf(String(value), component === 'request' ? 0 : 6);
    if (rate === undefined) return `${name} is no price: ${String(value).slice(0, 40)}`;
    const over = Number(thousands) * 1000;
    const key = `${component} ${over}`;
    if (!rates.has(key)) rates.set(key, { component, over, ...rate });
  }
  const all = [...rates.values()];
  // Such as calls that are charged by the query: their tokens are not free, but part of its price.
  return costsOtherwise && all.every(({ amount }) => amount === '0') ? [] : all;
}

/** Classes whose prices LiteLLM reads for long calls, too. */
const LONG: readonly PriceComponent[] = ['input', 'output', 'cached_input', 'cache_write'];

/**
 * Returns the rates of long calls as LiteLLM reads them: a price of input makes a threshold. Above it, a class has the
 * price of that threshold or its plain one, never that of a lower threshold.
 */
function longRates(rates: readonly ListRate[], provider: string): ListRate[] | string {
  const plain = rates.filter(({ over }) => over === 0);
  const thresholds = rates.flatMap(({ component, over }) => (component === 'input' && over > 0 ? [over] : []));
  if (thresholds.length === 0) return plain;
  if (provider.startsWith('vertex_ai') && rates.some(({ over }) => over === 128_000))
    return 'the output of its long calls has a threshold of its own';
  thresholds.sort((a, b) => a - b);
  // There, calls of this provider cost more from the threshold on.
  const shift = provider === 'xai' ? 1 : 0;
  const long = LONG.flatMap((component) => {
    const own = rates.filter((rate) => rate.component === component);
    const first = own.find(({ over }) => over === 0);
    let isHigher = false;
    return thresholds.flatMap((over) => {
      const higher = own.find((rate) => rate.over === over);
      const rate = higher ?? (isHigher ? first : undefined);
      isHigher = higher !== undefined;
      return rate === undefined ? [] : [{ ...rate, over: over - shift }];
    });
  });
  return [...plain, ...long];
}

const Tier = z.looseObject({ range: z.tuple([z.string(), z.string().nullable()]) });

/** The class whose rate a tier uses for one that it has no price of. */
const TIER_FALLBACK: Partial<Record<PriceComponent, PriceComponent>> = {
  cached_input: 'input',
  cache_write: 'input',
  reasoning: 'output',
};

/**
 * Returns the rates of tiers: the one that has the size of the prompt prices all tokens of a call. Tiers without a rate
 * of tokens, such as those by results of a search, change nothing.
 */
function tieredRates(tiers: unknown, flat: readonly ListRate[]): ListRate[] | string {
  const all = z.array(z.looseObject({})).safeParse(tiers).data ?? [];
  const rates = all.map(({ range: _, ...fields }) => flatRates(fields));
  const unreadable = rates.find((each) => typeof each === 'string');
  if (unreadable !== undefined) return unreadable;
  if (rates.every((each) => each.length === 0)) return [...flat];
  const ranges = z
    .array(Tier)
    .safeParse(tiers)
    .data?.map(({ range }) => range.map((end) => end && decimalOf(end)));
  const isRange = ([start, end]: readonly unknown[]) =>
    WHOLE.test(`${start}`) && (end === null || WHOLE.test(`${end}`));
  if (!ranges?.every(isRange)) return 'its tiers are no ranges of prompt tokens';
  const order = [...all.keys()].sort((a, b) => Number(ranges[a]![0]) - Number(ranges[b]![0]));
  const follows = (at: number, place: number) => ranges[at]![0] === (place === 0 ? '0' : ranges[order[place - 1]!]![1]);
  if (!order.every(follows)) return 'its tiers leave a gap or overlap';
  const rest = flat.filter(({ component }) => component === 'request');
  const classes = new Set((rates as ListRate[][]).flat().map(({ component }) => component));
  if (flat.some(({ component }) => component === 'output')) classes.add('output');
  for (const { component } of rest) classes.delete(component);
  const tiered: ListRate[] = [];
  for (const at of order) {
    const own = rates[at] as ListRate[];
    const rateOfTier = (component: PriceComponent) => own.find((rate) => rate.component === component);
    for (const component of classes) {
      const fallback = TIER_FALLBACK[component];
      const rate = rateOfTier(component);
      // There, a price of 0 is none where another one can stand in.
      const used = fallback && (!rate || rate.amount === '0') ? (rateOfTier(fallback) ?? rate) : rate;
      if (!used) return 'its tiers do not all price the same classes of tokens';
      tiered.push({ ...used, component, over: Number(ranges[at]![0]) });
    }
  }
  return [...rest, ...tiered];
}

const WHOLE = /^\d{1,9}$/;

const NO_PRICE_READ = 'it has no price by tokens or requests';

/** Returns a price of 10^-shift units as an amount for at least one, with 12 decimals at most; undefined if it is none. */
function rateOf(text: string, shift: number): { amount: string; per: number } | undefined {
  for (const places of [shift, shift + 3, shift + 6]) {
    const amount = decimalOf(text, places);
    if (amount !== undefined) return { amount, per: 10 ** places };
  }
  return undefined;
}

function priceOf(about: Base, { component, amount, per, over }: ListRate): NewPrice {
  const { provider, model, source, validFrom, validTo } = about;
  const [overPromptTokens, meter, merchantId] = [String(over), '', ''];
  // Names each field: spreading `about` took three quarters of the time of reading a long list.
  return {
    provider,
    model,
    meter,
    merchantId,
    component,
    overPromptTokens,
    amount,
    per: String(per),
    validFrom,
    validTo,
    source,
  };
}

/** Remembers what a source has named: of its entries for one model the first one counts, like there. */
function createNamed() {
  const names = new Set<string>();
  const nameOf = ({ provider, model }: NewPrice) => JSON.stringify([provider, model]);
  return {
    /** Returns the prices of an entry for models that no entry before had. */
    first(prices: readonly NewPrice[]): NewPrice[] {
      const fresh = prices.filter((price) => !names.has(nameOf(price)));
      for (const price of fresh) names.add(nameOf(price));
      return fresh;
    },
  };
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

/** Entries that are read, and characters that are parsed, before others have their turn: some milliseconds. */
const ENTRIES_AT_ONCE = 500;
const CHARACTERS_AT_ONCE = 128 * 1024;

/**
 * Parses a cost map with every number as its own text: no amount goes through a float. Of entries with the same key the
 * last one counts.
 */
async function entriesOf(file: string): Promise<Map<string, unknown>> {
  const entries = new Map<string, unknown>();
  try {
    for (const part of exactEntries(file, CHARACTERS_AT_ONCE)) {
      for (const [key, value] of part) entries.set(key, value);
      await nextTurn();
    }
    return entries;
  } catch {
    throw new TallyError('INVALID_INPUT', 'file: Expected the JSON object of a LiteLLM cost map.');
  }
}
