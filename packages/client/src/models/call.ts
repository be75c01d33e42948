import { calcPrice } from '@pydantic/genai-prices';
import { printUnits, type RecordInput } from '../entry.ts';
import type { Tally } from '../tally.ts';

/** Whose call it was. */
export type Attributes = {
  merchantId: string;
  userId?: string | undefined;
  apiKey?: string | undefined;
  properties?: { [name: string]: string | number | boolean } | undefined;
  /** Who answered, where it is not the one that the helper is named for: `groq`, `azure`, `openrouter`. */
  provider?: string | undefined;
};

export type CallOptions<Request = unknown> = {
  tally: Pick<Tally, 'record'>;
  /** Whose calls these are; a function where the request says so. */
  attributes: Attributes | ((request: Request) => Attributes);
  /**
   * USD of a call as a decimal string; undefined where it is not known: the entry then has no cost, never 0. Asked only
   * where the provider gives no price itself. Default: list prices of `@pydantic/genai-prices`, rounded to nano-USD, for
   * the models it knows at their standard tier.
   */
  price?: (call: PricedCall) => string | undefined;
};

/** Tokens of a call. `prompt` includes what was read from or written to a cache, `completion` includes reasoning. */
export type TokenUsage = {
  prompt: number;
  completion: number;
  cacheRead?: number;
  cacheWrite?: number;
  /** Of `cacheWrite`, what is kept for an hour, at another price. */
  cacheWriteHour?: number;
  reasoning?: number;
  webSearches?: number;
};

export type PricedCall = { provider: string; model: string; usage: TokenUsage };

export type FinishedCall = {
  provider: string;
  model: string | undefined;
  /** Undefined where the provider has not said: the call is counted, its tokens are not. */
  usage: TokenUsage | undefined;
  failed: boolean;
  /** USD, where the provider says. */
  cost?: number | string | undefined;
  /** False where list prices do not hold: batches, priority, flex. */
  standardTier?: boolean;
};

/**
 * Records one call. Cached and reasoning tokens are metrics of their own beside the two sums that include them. Never
 * throws: a caller's function that does is reported, and the answer of the model goes its way.
 */
export function recordCall<Request>(options: CallOptions<Request>, request: Request, call: FinishedCall): void {
  try {
    const taken = options.tally.record(entryOf(options, request, call));
    if (!taken.ok) console.error(`tally: a model call was not recorded: ${taken.code}: ${taken.message}`);
  } catch (error) {
    console.error('tally: a model call was not recorded', error);
  }
}

function entryOf<Request>(options: CallOptions<Request>, request: Request, call: FinishedCall): RecordInput {
  const { attributes, price = listPrice } = options;
  const {
    merchantId,
    userId,
    apiKey,
    properties,
    provider = call.provider,
  } = typeof attributes === 'function' ? attributes(request) : attributes;
  const { usage, model, failed } = call;
  const metrics: RecordInput['metrics'] = {};
  if (usage) {
    metrics.prompt_tokens = usage.prompt;
    metrics.completion_tokens = usage.completion;
    if (usage.cacheRead) metrics.cached_tokens = usage.cacheRead;
    if (usage.cacheWrite) metrics.cache_write_tokens = usage.cacheWrite;
    if (usage.reasoning) metrics.reasoning_tokens = usage.reasoning;
    const known = call.cost === undefined || call.cost === null ? undefined : dollars(Number(call.cost));
    const cost = known ?? (call.standardTier === false || !model ? undefined : price({ provider, model, usage }));
    if (cost !== undefined) metrics.cost = cost;
  }
  const status = failed ? 'failure' : 'success';
  return { merchantId, userId, apiKey, model, provider, status, properties, metrics };
}

/** The list price of a call; undefined for a model that is not in the list, or is there without a price. */
export function listPrice({ provider, model, usage }: PricedCall): string | undefined {
  try {
    const found = calcPrice(
      {
        input_tokens: usage.prompt,
        output_tokens: usage.completion,
        ...(usage.cacheRead ? { cache_read_tokens: usage.cacheRead } : {}),
        ...(usage.cacheWrite ? { cache_write_tokens: usage.cacheWrite } : {}),
        ...(usage.cacheWriteHour ? { cache_write_1h_tokens: usage.cacheWriteHour } : {}),
        ...(usage.webSearches ? { web_searches: usage.webSearches } : {}),
      },
      model,
      { providerId: provider },
    );
    if (!found) return undefined;
    const { input_mtok: input, output_mtok: output } = found.model_price;
    if (usage.prompt > 0 && input === undefined) return undefined;
    if (usage.completion > 0 && output === undefined) return undefined;
    return dollars(found.total_price);
  } catch {
    // Usage that does not add up has no price.
    return undefined;
  }
}

/** The price lists are of floats; here they become whole nano-USD, once, before anything is added. */
function dollars(amount: number): string | undefined {
  const nanos = Math.round(amount * 1e9);
  return Number.isSafeInteger(nanos) && nanos >= 0 ? printUnits('cost', nanos) : undefined;
}

/** A token count of somebody else's object; 0 for anything that is none. */
export const tokens = (value: unknown): number =>
  typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : 0;

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;
