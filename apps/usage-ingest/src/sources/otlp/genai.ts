import { EVENT_TYPE_PROPERTY, formatCost, timeText, type UsageEntry } from '@tally/contracts';
import { type Caller, parseExactly, unitsOf } from '@tally/service';
import { decoration, dimensionValue, merchantOf, present } from '../naming.ts';
import type { Item } from '../source.ts';
import { completeTokens } from './ai-sdk.ts';
import { type Attributes, attributeNames, type Span, type SpanIds } from './span.ts';

const read: string[] = [];
const indexesOf = (...names: string[]) => names.map((name) => read.push(name) - 1);

/**
 * The attributes of each value, as indexes of `ATTRIBUTES`, in order of precedence: OpenTelemetry's, then
 * OpenInference's, Langfuse's and the AI SDK's.
 */
const INDEXES = {
  // The dated name of the answering model would split usage of the requested one.
  model: indexesOf(
    'gen_ai.request.model',
    'llm.model_name',
    'langfuse.observation.model.name',
    'embedding.model_name',
    'gen_ai.response.model',
  ),
  provider: indexesOf('gen_ai.provider.name', 'gen_ai.system', 'llm.provider', 'llm.system', 'ai.model.provider'),
  user: indexesOf(
    'user.id',
    'enduser.id',
    'langfuse.user.id',
    'ai.telemetry.metadata.userId',
    'ai.telemetry.metadata.user_id',
    'ai.telemetry.metadata.user',
  ),
  prompt_tokens: indexesOf('gen_ai.usage.input_tokens', 'gen_ai.usage.prompt_tokens', 'llm.token_count.prompt'),
  completion_tokens: indexesOf(
    'gen_ai.usage.output_tokens',
    'gen_ai.usage.completion_tokens',
    'llm.token_count.completion',
  ),
  cached_tokens: indexesOf(
    'gen_ai.usage.cache_read.input_tokens',
    'gen_ai.usage.cache_read_input_tokens',
    'llm.token_count.prompt_details.cache_read',
    'ai.usage.cachedInputTokens',
  ),
  cache_write_tokens: indexesOf(
    'gen_ai.usage.cache_write.input_tokens',
    'gen_ai.usage.cache_creation.input_tokens',
    'gen_ai.usage.cache_creation_input_tokens',
    'llm.token_count.prompt_details.cache_write',
    'ai.usage.inputTokenDetails.cacheWriteTokens',
  ),
  reasoning_tokens: indexesOf(
    'gen_ai.usage.reasoning.output_tokens',
    'gen_ai.usage.reasoning_tokens',
    'llm.token_count.completion_details.reasoning',
    'ai.usage.reasoningTokens',
    'ai.usage.outputTokenDetails.reasoningTokens',
  ),
  merchant: indexesOf('tally.merchant'),
  operation: indexesOf('gen_ai.operation.name'),
  // Of Traceloop before it knew OpenTelemetry's operations.
  requestType: indexesOf('llm.request.type'),
  aiOperation: indexesOf('ai.operationId'),
  aiModel: indexesOf('ai.model.id'),
  aiEmbedTokens: indexesOf('ai.usage.tokens'),
  aiTotal: indexesOf('ai.usage.totalTokens'),
  aiMetadata: indexesOf('ai.response.providerMetadata'),
  // Only versions whose sums are complete report it.
  aiWithoutCache: indexesOf('ai.usage.inputTokenDetails.noCacheTokens'),
  kind: indexesOf('openinference.span.kind'),
  langfuseType: indexesOf('langfuse.observation.type'),
  langfuseUsage: indexesOf('langfuse.observation.usage_details'),
  langfuseLevel: indexesOf('langfuse.observation.level'),
  langfuseCost: indexesOf('langfuse.observation.cost_details'),
  service: indexesOf('service.name'),
  namespace: indexesOf('service.namespace'),
};

/** Each of these says that a span is a call, if `callOf` finds nothing else in it. */
const CALL_NAMES = [
  ...[INDEXES.operation, INDEXES.aiOperation, INDEXES.kind, INDEXES.langfuseType, INDEXES.requestType],
].flat();

/** What is read of a span: attributes about usage. Prompts and answers are not, and are never read. */
export const ATTRIBUTES = attributeNames(read);

/** Returns the first value that is there and not empty. */
function firstOf(attributes: Attributes, indexes: readonly number[]): string | undefined {
  for (const index of indexes) {
    const value = attributes[index];
    if (value !== undefined && value !== '') return value;
  }
  return undefined;
}

/** Operations that are one call of a model. Agents, tools and workflows repeat the sums of the calls within them. */
const CALLS: ReadonlySet<string> = new Set(['chat', 'text_completion', 'generate_content', 'embeddings']);
const TOKENS = [
  'prompt_tokens',
  'completion_tokens',
  'cached_tokens',
  'cache_write_tokens',
  'reasoning_tokens',
] as const;

/** The tracer of the AI SDK 7. It wraps each embedding in a span that looks like one, but has no tokens. */
const AI_SDK = 'gen_ai';
/** Its input tokens are without those of the cache, as Anthropic counts them; all others include them. */
const WITHOUT_CACHE = '@traceloop/instrumentation-anthropic';

/** The resource attribute that names the merchant of spans without one whose key is bound to none. */
export type MerchantFrom = 'service.name' | 'service.namespace';

/** Returns the event of a span that is one call of a model; `skipped` for any other span. */
export function itemOfSpan(span: Span, caller: Caller, merchantFrom: MerchantFrom): Item {
  const { attributes, resource, traceId, spanId } = span;
  const call = callOf(attributes);
  if (!call) return 'skipped';
  const metrics = amountsOf(span, call.isEmbed);
  const hasTokens = metrics.prompt_tokens !== undefined || metrics.completion_tokens !== undefined;
  const failed = span.failed || firstOf(attributes, INDEXES.langfuseLevel) === 'ERROR';
  if (!hasTokens && !failed && call.operation === 'embeddings' && span.scope === AI_SDK) return 'skipped';
  // Such as a count of tokens, which has a model, too.
  if (!hasTokens && metrics.cost === undefined && firstOf(attributes, CALL_NAMES) === undefined) return 'skipped';
  const id = `otel:${traceId}:${spanId}`;
  const refused = (message: string): Item => ({ refused: { code: 'INVALID_ENTRY', message }, id });
  if (!TRACE_ID.test(traceId) || !SPAN_ID.test(spanId)) return refused('The span has no trace id and span id.');
  if (span.start === 0) return refused('The span has no start time.');

  const named = present(firstOf(attributes, INDEXES.merchant) ?? firstOf(resource, INDEXES.merchant));
  const from = merchantFrom === 'service.name' ? INDEXES.service : INDEXES.namespace;
  const merchantId = named ? merchantOf(named) : (caller.merchantId ?? merchantOf(firstOf(resource, from) ?? ''));
  if (!merchantId)
    return refused(`The span has no merchant: bind the key to one, or set tally.merchant or ${merchantFrom}.`);

  for (const type in metrics) {
    const value = metrics[type]!;
    if (type === 'cost' || WHOLE.test(value)) continue;
    if (!WHOLE_WITH_ZEROS.test(value))
      return refused(`${type} is not a whole number from 0 to 10^15: ${value.slice(0, 40)}`);
    metrics[type] = value.slice(0, value.indexOf('.'));
  }
  const service = firstOf(resource, INDEXES.service);
  const entry: UsageEntry = {
    id,
    merchantId,
    time: timeText(span.start),
    metrics,
    status: failed ? 'failure' : 'success',
    properties: service
      ? { [EVENT_TYPE_PROPERTY]: call.operation, service: decoration(service) }
      : { [EVENT_TYPE_PROPERTY]: call.operation },
  };
  const model = dimensionValue(call.model);
  if (model !== null) entry.model = model;
  const provider = dimensionValue(firstOf(attributes, INDEXES.provider)?.split('.', 1)[0]);
  if (provider !== null) entry.provider = provider;
  const userId = dimensionValue(firstOf(attributes, INDEXES.user));
  if (userId !== null) entry.userId = userId;
  return failed || hasTokens ? { entry } : { entry, lacks: 'tokens' };
}

/**
 * Skips each call that another span of the same request reports, too: one without tokens around another call, and one
 * within a call of the same tokens. Vendors' clients make spans of their own within those of an instrumentation.
 * `spans` are those of the items, in any order.
 */
export function skipRepeats(items: Item[], spans: readonly SpanIds[]): void {
  const calls = new Map<string, number>();
  for (const [at, item] of items.entries()) if (item !== 'skipped' && 'entry' in item) calls.set(spans[at]!.spanId, at);
  const repeats: number[] = [];
  for (const at of calls.values()) {
    const outer = calls.get(spans[at]!.parentId);
    if (outer === undefined) continue;
    const around = tokensIn(items[outer]!);
    if (around === '') repeats.push(outer);
    else if (around === tokensIn(items[at]!)) repeats.push(at);
  }
  for (const at of repeats) items[at] = 'skipped';
}

/** Returns the tokens of a call as text; empty if it has none. */
function tokensIn(item: Item): string {
  const { prompt_tokens: prompt = '', completion_tokens: completion = '' } =
    item !== 'skipped' && 'entry' in item ? item.entry.metrics : {};
  return prompt === '' && completion === '' ? '' : `${prompt} ${completion}`;
}

const TRACE_ID = /^(?!0{32}$)[0-9a-f]{32}$/;
const SPAN_ID = /^(?!0{16}$)[0-9a-f]{16}$/;
const WHOLE = /^\d{1,15}$/;
const WHOLE_WITH_ZEROS = /^\d{1,15}\.0+$/;

/** Returns the operation of a span; undefined if it is not one call of a model. */
function callOf(attributes: Attributes): { model: string; operation: string; isEmbed: boolean } | undefined {
  const ai = firstOf(attributes, INDEXES.aiOperation);
  const isEmbed = ai?.endsWith('.doEmbed') ?? false;
  // The outer spans of the AI SDK, such as `ai.generateText`, repeat the inner ones.
  if (ai !== undefined && !isEmbed && !/\.do[A-Z]/.test(ai)) return undefined;
  const operation = firstOf(attributes, INDEXES.operation);
  if (operation !== undefined && !CALLS.has(operation)) return undefined;
  const kind = firstOf(attributes, INDEXES.kind);
  if (kind !== undefined && kind !== 'LLM' && kind !== 'EMBEDDING') return undefined;
  const type = firstOf(attributes, INDEXES.langfuseType);
  if (type !== undefined && type !== 'generation' && type !== 'embedding') return undefined;
  const model =
    firstOf(attributes, INDEXES.model) ?? (ai === undefined ? undefined : firstOf(attributes, INDEXES.aiModel));
  if (model === undefined) return undefined;
  const embeds = isEmbed || kind === 'EMBEDDING' || type === 'embedding';
  return { model, operation: operation ?? (embeds ? 'embeddings' : 'chat'), isEmbed };
}

/** Returns the amounts of a call as it reports them, unchecked; those of Langfuse win. */
function amountsOf({ attributes, scope }: Span, isEmbed: boolean): Record<string, string> {
  let amounts: Record<string, string> = {};
  for (const type of TOKENS) {
    const value = firstOf(attributes, INDEXES[type]);
    if (value !== undefined) amounts[type] = value;
  }
  if (scope === WITHOUT_CACHE) {
    const { prompt_tokens, cached_tokens, cache_write_tokens } = amounts;
    const parts = [prompt_tokens, cached_tokens, cache_write_tokens].filter((part) => part !== undefined);
    if (parts.length > 0 && parts.every((part) => WHOLE.test(part)))
      amounts.prompt_tokens = String(parts.reduce((sum, part) => sum + BigInt(part), 0n));
  }
  if (
    firstOf(attributes, INDEXES.aiOperation) !== undefined &&
    firstOf(attributes, INDEXES.aiWithoutCache) === undefined
  ) {
    const metadata = firstOf(attributes, INDEXES.aiMetadata);
    amounts = completeTokens(amounts, firstOf(attributes, INDEXES.aiTotal), metadata);
  }
  const embedded = isEmbed ? firstOf(attributes, INDEXES.aiEmbedTokens) : undefined;
  if (embedded !== undefined) amounts.prompt_tokens = embedded;
  const usage = firstOf(attributes, INDEXES.langfuseUsage);
  if (usage !== undefined) Object.assign(amounts, langfuseTokens(usage));
  const cost = firstOf(attributes, INDEXES.langfuseCost);
  if (cost !== undefined) Object.assign(amounts, langfuseCost(cost));
  return amounts;
}

/** Side metrics by their documented names in Langfuse's `usage_details`; its callers may choose others. */
const LANGFUSE_PARTS: Record<string, readonly string[]> = {
  cached_tokens: ['cache_read_input_tokens', 'input_cached_tokens', 'input_cache_read'],
  cache_write_tokens: ['cache_creation_input_tokens', 'input_cache_creation'],
  reasoning_tokens: ['output_reasoning_tokens', 'output_reasoning'],
};

/** Langfuse adds up all details with `input` or `output` in their name; `total` shows if parts are in the first two. */
function langfuseTokens(text: string): Record<string, string> {
  const details = detailsOf(text);
  const tokens: Record<string, string> = {};
  for (const [type, names] of Object.entries(LANGFUSE_PARTS)) {
    const name = names.find((each) => details.has(each));
    if (name !== undefined) tokens[type] = details.get(name)!;
  }
  /** The sum as text; the first that is no amount, which is refused like any other. */
  const sumOf = (names: readonly string[]) => {
    let sum = 0n;
    for (const name of names) {
      const text = details.get(name) ?? '0';
      if (!WHOLE.test(text) && !WHOLE_WITH_ZEROS.test(text)) return text;
      sum += BigInt(text.split('.', 1)[0]!);
    }
    return String(sum);
  };
  const isComplete = details.has('total') && sumOf(['total']) === sumOf(['input', 'output']);
  for (const [type, own, other] of [
    ['prompt_tokens', 'input', 'input_tokens'],
    ['completion_tokens', 'output', 'output_tokens'],
  ] as const) {
    const name = [type, other].find((each) => details.has(each));
    const parts = [...details.keys()].filter((each) => each.includes(own) && each !== other);
    if (name !== undefined && !details.has(own)) tokens[type] = details.get(name)!;
    else if (parts.length > 0) tokens[type] = sumOf(isComplete ? [own] : parts);
  }
  return tokens;
}

function langfuseCost(text: string): { cost?: string } {
  const costs = detailsOf(text);
  const total = costs.get('total');
  const parts = total === undefined ? [...costs.values()] : [total];
  if (parts.length === 0) return {};
  let nanos = 0n;
  for (const part of parts) {
    const isNegative = part.startsWith('-');
    // Rounded half up to nano-USD from its text. One that is no amount is refused like any other, and so is a sum below 0.
    const read = unitsOf(isNegative ? part.slice(1) : part, 9);
    if (!read) return { cost: part };
    nanos += isNegative ? -read.units : read.units;
  }
  return { cost: formatCost(nanos) };
}

/** Parses JSON text as numbers by name, each as its text. */
function detailsOf(text: string): Map<string, string> {
  const details = new Map<string, string>();
  if (text.length > 10_000) return details;
  try {
    for (const [name, value] of Object.entries(parseExactly(text) ?? {}))
      if (typeof value === 'string') details.set(name, value);
  } catch {
    // Callers write it by hand; the call counts without it.
  }
  return details;
}
