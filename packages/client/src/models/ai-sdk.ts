import { type CallOptions, type FinishedCall, isObject, recordCall } from './call.ts';
import {
  AI_SDK_6,
  aiSdk4Convention,
  aiSdk5Convention,
  count,
  reportsAnything,
  type TokenUsage,
  tokensOf,
} from './usage.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Model = { readonly provider: string; readonly modelId: string };
type Wrapped = { model: Model; params: unknown };

/** A language model middleware of the Vercel AI SDK. Fits `wrapLanguageModel` of versions 4 to 7. */
export type TallyMiddleware<Version extends string> = {
  readonly specificationVersion: Version;
  wrapGenerate<Result>(call: Wrapped & { doGenerate(): PromiseLike<Result> }): Promise<Result>;
  wrapStream<Result>(call: Wrapped & { doStream(): PromiseLike<Result> }): Promise<Result>;
};

/**
 * Returns a middleware that records the calls of a model: `wrapLanguageModel({ model, middleware: tallyMiddleware({
 * tally, attributes }) })`. Each step of a tool loop is a call. `specificationVersion` is that of the SDK's types: `v3`
 * for version 6 (default), `v4` for version 7; versions 4 and 5 accept either.
 */
export function tallyMiddleware<Version extends string = 'v3'>(
  options: CallOptions & { specificationVersion?: Version },
): TallyMiddleware<Version> {
  const begin = ({ model, params }: Wrapped) => {
    let call: FinishedCall = {
      provider: nameOf(model.provider),
      model: model.modelId,
      usage: {},
      failed: false,
    };
    let tooLow = false;
    return {
      /** Reads the usage in a result, or in a part of a stream. */
      learn(part: unknown) {
        if (!isObject(part)) return;
        const response = isObject(part.response) ? part.response : part;
        if (typeof response.modelId === 'string') call.model = response.modelId;
        if (!isObject(part.usage)) return;
        const metadata = isObject(part.providerMetadata) ? part.providerMetadata : {};
        const usage = usageOf(part.usage, model, metadata, part.rawResponse);
        call = { ...call, usage, cost: costIn(metadata) };
        tooLow = hidesReasoning(part.usage, model) && usage.reasoning === undefined;
      },
      end: (failed: boolean, partial = false) =>
        recordCall(options, params, { ...call, failed, partial: partial || tooLow }),
    };
  };

  return {
    specificationVersion: (options.specificationVersion ?? 'v3') as Version,

    async wrapGenerate(wrapped) {
      const call = begin(wrapped);
      try {
        const result = await wrapped.doGenerate();
        call.learn(result);
        call.end(false);
        return result;
      } catch (error) {
        call.end(true);
        throw error;
      }
    },

    async wrapStream(wrapped) {
      const call = begin(wrapped);
      try {
        const result = await wrapped.doStream();
        const { stream } = result as { stream?: ReadableStream<unknown> };
        return stream ? { ...result, stream: watch(stream, call) } : result;
      } catch (error) {
        call.end(true);
        throw error;
      }
    },
  };
}

type Watched = { learn(part: unknown): void; end(failed: boolean, partial: boolean): void };

/** Returns the same stream; `call` reads its parts and ends once, also if the reader leaves early. */
function watch(stream: ReadableStream<unknown>, call: Watched) {
  const reader = stream.getReader();
  let failed = false;
  let complete = false;
  let over = false;
  const end = (broken: boolean) => {
    if (!over) call.end(failed || broken, !complete);
    over = true;
  };
  return new ReadableStream<unknown>({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (done) {
          end(false);
          controller.close();
          return;
        }
        if (isObject(value) && value.type === 'error') failed = true;
        if (isObject(value) && value.type === 'finish') complete = isFinal(value.finishReason);
        // Some packages put zeros into the end of a stream that the vendor never ended.
        if (!isObject(value) || value.type !== 'finish' || complete || reportsAnything(value.usage, 1))
          call.learn(value);
        controller.enqueue(value);
      } catch (error) {
        end(true);
        controller.error(error);
      }
    },
    cancel(reason) {
      end(false);
      return reader.cancel(reason);
    },
  });
}

/** Returns false for the reason that the SDK gives if the vendor's stream ended without one. */
const isFinal = (reason: unknown): boolean =>
  isObject(reason) ? reason.unified !== 'other' || reason.raw !== undefined : reason !== 'unknown';

/** Returns the first part of a provider's name: `openai` of `openai.chat`, `google` of `google.vertex.chat`. */
const nameOf = (provider: string): string => provider.split('.')[0]!;

function usageOf(
  usage: Record<string, unknown>,
  model: Model,
  metadata: Record<string, unknown>,
  rawResponse: unknown,
): Partial<TokenUsage> {
  const { inputTokens: input, outputTokens: output } = usage;
  const ofVendor = vendorUsage(usage, metadata);
  if (isOfVersion4(usage)) {
    const thoughts = thoughtsIn(rawResponse);
    const { cacheRead, cacheWrite, cacheWriteHour, reasoning = thoughts } = ofVendor;
    return tokensOf(
      {
        input: count(usage.promptTokens),
        output: count(usage.completionTokens),
        cacheRead,
        cacheWrite,
        cacheWriteHour,
        reasoning,
      },
      aiSdk4Convention(model.provider),
    );
  }
  const { cacheWriteHour } = ofVendor;
  if (isObject(input) && isObject(output)) {
    // The SDK fills in 0 for missing counts; its `raw` has what the vendor reported.
    if (isObject(usage.raw) && !reportsAnything(usage.raw)) return {};
    const parts = [input.noCache, input.cacheRead, input.cacheWrite].map(count);
    return tokensOf(
      {
        input: count(input.total) ?? (parts[0] === undefined ? undefined : sum(parts)),
        output:
          count(output.total) ?? (count(output.text) === undefined ? undefined : sum([output.text, output.reasoning])),
        cacheRead: count(input.cacheRead),
        cacheWrite: count(input.cacheWrite),
        cacheWriteHour,
        reasoning: count(output.reasoning),
      },
      AI_SDK_6,
    );
  }
  return tokensOf(
    {
      input: count(input),
      output: count(output),
      total: count(usage.totalTokens),
      cacheRead: count(usage.cachedInputTokens),
      cacheWrite: ofVendor.cacheWrite,
      cacheWriteHour,
      reasoning: count(usage.reasoningTokens),
    },
    aiSdk5Convention(model.provider, model.modelId),
  );
}

const sum = (counts: readonly unknown[]): number =>
  counts.reduce<number>((total, each) => total + (count(each) ?? 0), 0);

/** Version 4 names its two sums differently from later versions. */
const isOfVersion4 = (usage: Record<string, unknown>): boolean =>
  'promptTokens' in usage || 'completionTokens' in usage;

/** Returns true if version 4 reports a Gemini's output without its reasoning, and the reasoning nowhere else. */
const hidesReasoning = (usage: Record<string, unknown>, { provider, modelId }: Model): boolean =>
  isOfVersion4(usage) && /^google/.test(provider) && /gemini/.test(modelId) && !/gemini-(?:1|2\.0)/.test(modelId);

/**
 * Returns the reasoning tokens of Gemini's own answer, which version 4 keeps for calls without a stream; 0 for none.
 */
function thoughtsIn(rawResponse: unknown): number | undefined {
  const body = isObject(rawResponse) ? rawResponse.body : undefined;
  const usage = isObject(body) ? body.usageMetadata : undefined;
  return isObject(usage) ? (count(usage.thoughtsTokenCount) ?? 0) : undefined;
}

/** Returns what the vendor itself reports, under whichever vendor's key the SDK put it. */
function vendorUsage(usage: Record<string, unknown>, metadata: Record<string, unknown>) {
  let cacheRead: number | undefined;
  let cacheWrite: number | undefined;
  let reasoning: number | undefined;
  let creation: Record<string, unknown> | undefined = isObject(usage.raw)
    ? asObject(usage.raw.cache_creation)
    : undefined;
  for (const vendor of Object.values(metadata)) {
    if (!isObject(vendor)) continue;
    const own = asObject(vendor.usage);
    cacheRead ??=
      count(vendor.cachedPromptTokens) ??
      count(vendor.cacheReadInputTokens) ??
      count(vendor.promptCacheHitTokens) ??
      count(own?.cacheReadInputTokens);
    cacheWrite ??=
      count(vendor.cacheCreationInputTokens) ??
      count(own?.cacheWriteInputTokens) ??
      count(own?.cache_creation_input_tokens);
    reasoning ??= count(vendor.reasoningTokens);
    creation ??= asObject(own?.cache_creation);
  }
  return { cacheRead, cacheWrite, cacheWriteHour: count(creation?.ephemeral_1h_input_tokens), reasoning };
}

const asObject = (value: unknown): Record<string, unknown> | undefined => (isObject(value) ? value : undefined);

/** Returns the cost that a gateway reports. */
function costIn({ gateway, openrouter }: Record<string, unknown>): number | string | undefined {
  if (isObject(gateway) && typeof gateway.cost === 'string') return gateway.cost;
  const usage = isObject(openrouter) && isObject(openrouter.usage) ? openrouter.usage : {};
  return typeof usage.cost === 'number' ? usage.cost : undefined;
}
