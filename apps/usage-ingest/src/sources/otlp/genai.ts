import { EVENT_TYPE_PROPERTY, formatCost, type UsageEntry } from '@tally/contracts';
import { type Caller, parseExactly, unitsOf } from '@tally/service';
import { decoration, dimension, merchantOf, present } from '../naming.ts';
import type { Item } from '../source.ts';
import type { Attributes, Span } from './span.ts';

const MERCHANT = 'tally.merchant';
/**
 * Attribute names of one value, in order of precedence: OpenTelemetry's, then OpenInference's, Langfuse's and the AI
 * SDK's.
 */
const NAMES = {
  // The dated name of the answering model would split usage of the requested one.
  model: [
    'gen_ai.request.model',
    'llm.model_name',
    'langfuse.observation.model.name',
    'embedding.model_name',
    'gen_ai.response.model',
  ],
  provider: ['gen_ai.provider.name', 'gen_ai.system', 'llm.provider', 'llm.system', 'ai.model.provider'],
  user: [
    'user.id',
    'enduser.id',
    'langfuse.user.id',
    'ai.telemetry.metadata.userId',
    'ai.telemetry.metadata.user_id',
    'ai.telemetry.metadata.user',
  ],
  prompt_tokens: ['gen_ai.usage.input_tokens', 'gen_ai.usage.prompt_tokens', 'llm.token_count.prompt'],
  completion_tokens: ['gen_ai.usage.output_tokens', 'gen_ai.usage.completion_tokens', 'llm.token_count.completion'],
  cached_tokens: [
    'gen_ai.usage.cache_read.input_tokens',
    'llm.token_count.prompt_details.cache_read',
    'ai.usage.cachedInputTokens',
  ],
  cache_write_tokens: ['gen_ai.usage.cache_creation.input_tokens', 'llm.token_count.prompt_details.cache_write'],
  reasoning_tokens: [
    'gen_ai.usage.reasoning.output_tokens',
    'llm.token_count.completion_details.reasoning',
    'ai.usage.reasoningTokens',
  ],
} as const;
const OPERATION = 'gen_ai.operation.name';
const AI_OPERATION = 'ai.operationId';
const AI_MODEL = 'ai.model.id';
const AI_EMBED_TOKENS = 'ai.usage.tokens';
const KIND = 'openinference.span.kind';
const LANGFUSE_TYPE = 'langfuse.observation.type';
const LANGFUSE_USAGE = 'langfuse.observation.usage_details';
const LANGFUSE_COST = 'langfuse.observation.cost_details';
const SERVICE = 'service.name';

const WANTED: ReadonlySet<string> = new Set([
  ...Object.values(NAMES).flat(),
  ...[MERCHANT, OPERATION, AI_OPERATION, AI_MODEL, AI_EMBED_TOKENS, KIND, LANGFUSE_TYPE, LANGFUSE_USAGE, LANGFUSE_COST],
  ...['service.name', 'service.namespace', 'deployment.environment.name'],
]);

/** Returns true if an attribute is about usage. Prompts and answers are not, and are never read. */
export const isWanted = (name: string): boolean => WANTED.has(name);

/** Operations that are one call of a model. Agents, tools and workflows repeat the sums of the calls within them. */
const CALLS: ReadonlySet<string> = new Set(['chat', 'text_completion', 'generate_content', 'embeddings']);
const TOKENS = [
  'prompt_tokens',
  'completion_tokens',
  'cached_tokens',
  'cache_write_tokens',
  'reasoning_tokens',
] as const;

/** The resource attribute that names the merchant of spans without one whose key is bound to none. */
export type MerchantFrom = 'service.name' | 'service.namespace';

/** Returns the event of a span that is one call of a model; `skipped` for any other span. */
export function itemOfSpan(span: Span, caller: Caller, merchantFrom: MerchantFrom): Item {
  const { attributes, resource, traceId, spanId } = span;
  const call = callOf(attributes);
  if (!call) return 'skipped';
  const id = `otel:${traceId}:${spanId}`;
  const refused = (message: string): Item => ({ refused: { code: 'INVALID_ENTRY', message }, id });
  if (!isHex(traceId, 32) || !isHex(spanId, 16)) return refused('The span has no trace id and span id.');
  const at = Number(span.start / 1_000_000n);
  if (at === 0) return refused('The span has no start time.');

  const named = present(attributes.get(MERCHANT) ?? resource.get(MERCHANT));
  const merchantId = named ? merchantOf(named) : (caller.merchantId ?? merchantOf(resource.get(merchantFrom) ?? ''));
  if (!merchantId)
    return refused(`The span has no merchant: bind the key to one, or set ${MERCHANT} or ${merchantFrom}.`);

  const metrics: Record<string, string> = {};
  for (const [type, value] of [...tokensOf(attributes, call.isEmbed), ...langfuseOf(attributes)]) {
    const whole = /^\d{1,15}(?:\.0+)?$/.test(value) || type === 'cost';
    if (!whole) return refused(`${type} is not a whole number from 0 to 10^15: ${value.slice(0, 40)}`);
    metrics[type] = type === 'cost' ? value : value.replace(/\.0+$/, '');
  }
  const service = resource.get(SERVICE);
  const entry: UsageEntry = {
    id,
    merchantId,
    time: timeOf(at),
    metrics,
    ...dimension('model', call.model),
    ...dimension('provider', firstOf(attributes, NAMES.provider)?.split('.', 1)[0]),
    ...dimension('userId', firstOf(attributes, NAMES.user)),
    status: span.failed ? 'failure' : 'success',
    properties: { [EVENT_TYPE_PROPERTY]: call.operation, ...(service && { service: decoration(service) }) },
  };
  const lacksTokens = !span.failed && metrics.prompt_tokens === undefined && metrics.completion_tokens === undefined;
  return lacksTokens ? { entry, lacks: 'tokens' } : { entry };
}

/** Returns the operation of a span; undefined if it is not one call of a model. */
function callOf(attributes: Attributes): { model: string; operation: string; isEmbed: boolean } | undefined {
  const ai = attributes.get(AI_OPERATION);
  const isEmbed = ai?.endsWith('.doEmbed') ?? false;
  // The outer spans of the AI SDK, such as `ai.generateText`, repeat the inner ones.
  if (ai !== undefined && !isEmbed && !/\.do[A-Z]/.test(ai)) return undefined;
  const operation = attributes.get(OPERATION);
  if (operation !== undefined && !CALLS.has(operation)) return undefined;
  const kind = attributes.get(KIND);
  if (kind !== undefined && kind !== 'LLM' && kind !== 'EMBEDDING') return undefined;
  const type = attributes.get(LANGFUSE_TYPE);
  if (type !== undefined && type !== 'generation' && type !== 'embedding') return undefined;
  const model = firstOf(attributes, NAMES.model) ?? (ai === undefined ? undefined : attributes.get(AI_MODEL));
  if (model === undefined) return undefined;
  const embeds = isEmbed || kind === 'EMBEDDING' || type === 'embedding';
  return { model, operation: operation ?? (embeds ? 'embeddings' : 'chat'), isEmbed };
}

function* tokensOf(attributes: Attributes, isEmbed: boolean): Generator<[type: string, value: string]> {
  for (const type of TOKENS) {
    const value = firstOf(attributes, NAMES[type]);
    if (value !== undefined) yield [type, value];
  }
  const embedded = isEmbed ? attributes.get(AI_EMBED_TOKENS) : undefined;
  if (embedded !== undefined) yield ['prompt_tokens', embedded];
}

/** Documented names of Langfuse's `usage_details`; its callers may choose others. */
const LANGFUSE_TOKENS: Record<string, readonly string[]> = {
  prompt_tokens: ['input', 'input_tokens', 'prompt_tokens'],
  completion_tokens: ['output', 'output_tokens', 'completion_tokens'],
  cached_tokens: ['cache_read_input_tokens', 'input_cached_tokens'],
  cache_write_tokens: ['cache_creation_input_tokens'],
  reasoning_tokens: ['output_reasoning_tokens'],
};

function* langfuseOf(attributes: Attributes): Generator<[type: string, value: string]> {
  if (!attributes.has(LANGFUSE_USAGE) && !attributes.has(LANGFUSE_COST)) return;
  const usage = detailsOf(attributes.get(LANGFUSE_USAGE));
  for (const [type, names] of Object.entries(LANGFUSE_TOKENS)) {
    const name = names.find((each) => usage.has(each));
    if (name !== undefined) yield [type, usage.get(name)!];
  }
  const costs = detailsOf(attributes.get(LANGFUSE_COST));
  const total = costs.get('total');
  const parts = total === undefined ? [...costs.values()] : [total];
  if (parts.length === 0) return;
  let nanos = 0n;
  // Each is rounded half up to nano-USD from its text.
  for (const part of parts) nanos += unitsOf(part, 9)?.units ?? 0n;
  yield ['cost', formatCost(nanos)];
}

/** Parses JSON text as numbers by name, each as its text. */
function detailsOf(text: string | undefined): Map<string, string> {
  const details = new Map<string, string>();
  if (text === undefined || text.length > 10_000) return details;
  try {
    for (const [name, value] of Object.entries(parseExactly(text) ?? {}))
      if (typeof value === 'string') details.set(name, value);
  } catch {
    // Callers write it by hand; the call counts without it.
  }
  return details;
}

function firstOf(attributes: Attributes, names: readonly string[]): string | undefined {
  for (const name of names) {
    const value = attributes.get(name);
    if (value !== undefined && value !== '') return value;
  }
  return undefined;
}

const isHex = (text: string, length: number) => text.length === length && !/[^0-9a-f]/.test(text) && /[^0]/.test(text);

/** Returns an ISO 8601 time within the range of a date; a later one is rejected as a time in the future. */
const timeOf = (ms: number) => new Date(Math.min(ms, 8.64e15)).toISOString();
