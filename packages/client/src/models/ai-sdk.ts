import { type CallOptions, type FinishedCall, isObject, recordCall, type TokenUsage, tokens } from './call.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Model = { readonly provider: string; readonly modelId: string };
type Wrapped = { model: Model; params: unknown };

/** A language model middleware of the Vercel AI SDK, by its shape; fits `wrapLanguageModel` of versions 5, 6 and 7. */
export type TallyMiddleware<Version extends string> = {
  readonly specificationVersion: Version;
  wrapGenerate<Result>(call: Wrapped & { doGenerate(): PromiseLike<Result> }): Promise<Result>;
  wrapStream<Result>(call: Wrapped & { doStream(): PromiseLike<Result> }): Promise<Result>;
};

/**
 * Records the calls of a model: `wrapLanguageModel({ model, middleware: tallyMiddleware({ tally, attributes }) })`. A
 * step is a call, so a tool loop counts each. `specificationVersion` is that of the SDK's own types: `v3` for version 6
 * (default), `v4` for version 7; version 5 takes either.
 */
export function tallyMiddleware<Version extends string = 'v3'>(
  options: CallOptions & { specificationVersion?: Version },
): TallyMiddleware<Version> {
  const begin = ({ model, params }: Wrapped) => {
    let call: FinishedCall = {
      provider: nameOf(model.provider),
      model: model.modelId,
      usage: undefined,
      failed: false,
    };
    return {
      /** What a result or the finish of a stream says. */
      learn(part: unknown) {
        if (!isObject(part)) return;
        const response = isObject(part.response) ? part.response : part;
        if (typeof response.modelId === 'string') call.model = response.modelId;
        if (isObject(part.usage)) {
          const metadata = isObject(part.providerMetadata) ? part.providerMetadata : {};
          call = { ...call, usage: usageOf(part.usage, call.provider, metadata), cost: costIn(metadata) };
        }
      },
      end: (failed: boolean) => recordCall(options, params, { ...call, failed }),
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

/** The same stream; `call` learns from its parts and ends once, also where its reader leaves early. */
function watch(stream: ReadableStream<unknown>, call: { learn(part: unknown): void; end(failed: boolean): void }) {
  const reader = stream.getReader();
  let failed = false;
  let over = false;
  const end = (broken: boolean) => {
    if (!over) call.end(failed || broken);
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

/** `openai.chat`, `anthropic.messages`, `google.vertex.chat`: the part before the first point is who answers. */
const nameOf = (provider: string): string => provider.split('.')[0]!;

/** Providers whose flat usage (version 5) leaves the cached part out of the input. */
const CACHE_APART = new Set(['anthropic', 'amazon-bedrock']);

function usageOf(usage: Record<string, unknown>, provider: string, metadata: Record<string, unknown>): TokenUsage {
  const { inputTokens: input, outputTokens: output } = usage;
  if (isObject(input) && isObject(output)) {
    return {
      prompt: tokens(input.total) || tokens(input.noCache) + tokens(input.cacheRead) + tokens(input.cacheWrite),
      completion: tokens(output.total) || tokens(output.text) + tokens(output.reasoning),
      cacheRead: tokens(input.cacheRead),
      cacheWrite: tokens(input.cacheWrite),
      reasoning: tokens(output.reasoning),
    };
  }
  const cacheRead = tokens(usage.cachedInputTokens);
  const anthropic = isObject(metadata.anthropic) ? metadata.anthropic : {};
  const cacheWrite = tokens(anthropic.cacheCreationInputTokens);
  return {
    prompt: tokens(input) + (CACHE_APART.has(provider) ? cacheRead + cacheWrite : 0),
    completion: tokens(output),
    cacheRead,
    cacheWrite,
    reasoning: tokens(usage.reasoningTokens),
  };
}

/** Gateways say what a call cost. */
function costIn({ gateway, openrouter }: Record<string, unknown>): number | string | undefined {
  if (isObject(gateway) && typeof gateway.cost === 'string') return gateway.cost;
  const usage = isObject(openrouter) && isObject(openrouter.usage) ? openrouter.usage : {};
  return typeof usage.cost === 'number' ? usage.cost : undefined;
}
