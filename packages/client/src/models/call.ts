import { calcPrice } from '@pydantic/genai-prices';
import { printUnits, type RecordInput } from '../entry.ts';
import type { Tally } from '../tally.ts';
import type { TokenUsage } from './usage.ts';

export type { TokenUsage } from './usage.ts';

/** The dimensions of a call: merchant, user and so on. */
export type Attributes = {
  merchantId: string;
  userId?: string | undefined;
  apiKey?: string | undefined;
  properties?: { [name: string]: string | number | boolean } | undefined;
  /** The provider, if it is not the one in the helper's name: `groq`, `azure`, `openrouter`. */
  provider?: string | undefined;
};

export type CallOptions<Request = unknown> = {
  tally: Pick<Tally, 'record'>;
  /** Returns the merchant and the other dimensions; a function if they depend on the request. */
  attributes: Attributes | ((request: Request) => Attributes);
  /**
   * Returns the USD of a call as a decimal string, or undefined if the price is unknown: the entry then has no cost,
   * never 0. Called only if both token counts are known and final, and the provider reports no price. Default: list
   * prices of `@pydantic/genai-prices`, rounded to nano-USD, for the models it lists, at their standard tier.
   */
  price?: (call: PricedCall) => string | undefined;
};

export type PricedCall = { provider: string; model: string; usage: TokenUsage };

export type FinishedCall = {
  provider: string;
  model: string | undefined;
  /** Counts that the provider did not report are absent: the call is counted, those tokens are not. */
  usage: Partial<TokenUsage>;
  failed: boolean;
  /** True if a stream was left or broke before its final counts: those reported so far may be too low. */
  partial?: boolean;
  /** USD, if the provider reports it. */
  cost?: number | string | undefined;
  /** False if list prices do not apply: batches, priority, flex. */
  standardTier?: boolean;
};

/** The most properties an entry can have. */
const MAX_PROPERTIES = 16;

/**
 * Records one call. Cached and reasoning tokens are separate metrics beside the two sums that include them. Never
 * throws: an error of a caller's function is logged, and the caller still gets the model's answer.
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
  const { usage, model, failed, partial = false } = call;
  const metrics: RecordInput['metrics'] = {};
  if (usage.prompt !== undefined) metrics.prompt_tokens = usage.prompt;
  if (usage.completion !== undefined) metrics.completion_tokens = usage.completion;
  if (usage.cacheRead) metrics.cached_tokens = usage.cacheRead;
  if (usage.cacheWrite) metrics.cache_write_tokens = usage.cacheWrite;
  if (usage.reasoning) metrics.reasoning_tokens = usage.reasoning;
  const priced = isComplete(usage) && !partial && call.standardTier !== false && model;
  const cost = reportedCost(call.cost) ?? (priced ? price({ provider, model, usage }) : undefined);
  if (cost !== undefined) metrics.cost = cost;
  const status = failed ? 'failure' : 'success';
  return {
    merchantId,
    userId,
    apiKey,
    model,
    provider,
    status,
    properties: partial ? marked(properties) : properties,
    metrics,
  };
}

const isComplete = (usage: Partial<TokenUsage>): usage is TokenUsage =>
  usage.prompt !== undefined && usage.completion !== undefined;

/** Marks a partial call. An entry whose properties are full stays unchanged: one more would be refused. */
function marked(properties: Attributes['properties'] = {}): Attributes['properties'] {
  const isFull = Object.keys(properties).length >= MAX_PROPERTIES && !Object.hasOwn(properties, 'partial');
  return isFull ? properties : { ...properties, partial: true };
}

const DECIMAL = /^\d+(?:\.\d+)?(?:e[+-]?\d+)?$/i;

function reportedCost(cost: unknown): string | undefined {
  if (typeof cost === 'number') return dollars(cost);
  return typeof cost === 'string' && DECIMAL.test(cost) ? dollars(Number(cost)) : undefined;
}

/** Returns the list price of a call; undefined for a model without a price in the list. */
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
    // Counts that contradict each other have no price.
    return undefined;
  }
}

/** Rounds a float of the price list to whole nano-USD, once, before any addition. */
function dollars(amount: number): string | undefined {
  const nanos = Math.round(amount * 1e9);
  return Number.isSafeInteger(nanos) && nanos >= 0 ? printUnits(nanos, 9) : undefined;
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;
