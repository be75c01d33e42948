import { type CallOptions, type FinishedCall, isObject, recordCall } from './call.ts';
import { API, count, type TokenUsage, tokensOf } from './usage.ts';
import { recordedMethod, type StreamReader, watchClient, watchStream } from './watch.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Request = Record<string, unknown>;

/**
 * Wraps a `GoogleGenAI` client of `@google/genai` so that `models.generateContent` and `models.generateContentStream`
 * are recorded. Chats call the models behind the wrapper: give their responses to `recordGoogle`.
 */
export function wrapGoogle<Client extends object>(client: Client, options: CallOptions<Request>): Client {
  const method = recordedMethod({ callOf, readerOf }, options);
  return watchClient(client, { 'models.generateContent': method, 'models.generateContentStream': method });
}

/** Records one finished response of `generateContent`. */
export function recordGoogle(response: unknown, options: CallOptions<Request>, request: Request = {}): void {
  recordCall(options, request, callOf(response, request));
}

/** Records a stream of responses when it ends; returns it. */
export function observeGoogle<S extends AsyncIterable<unknown>>(
  stream: S,
  options: CallOptions<Request>,
  request: Request = {},
): S {
  return watchStream(stream, readerOf(options, request));
}

function readerOf(options: CallOptions<Request>, request: Request): StreamReader {
  let last: Record<string, unknown> = {};
  let complete = false;
  return {
    see(chunk) {
      if (!isObject(chunk)) return true;
      // Each chunk reports the counts so far.
      const { modelVersion = last.modelVersion, usageMetadata = last.usageMetadata } = chunk;
      last = { modelVersion, usageMetadata };
      const candidates = Array.isArray(chunk.candidates) ? chunk.candidates : [];
      complete ||= candidates.some((each) => isObject(each) && !!each.finishReason) || isObject(chunk.promptFeedback);
      return true;
    },
    end: (failed) => recordCall(options, request, { ...callOf(last, request), failed, partial: !complete }),
  };
}

function callOf(answer: unknown, request: Request): FinishedCall {
  const response = isObject(answer) ? answer : {};
  const usage = isObject(response.usageMetadata) ? response.usageMetadata : {};
  const model = response.modelVersion ?? request.model;
  return {
    provider: 'google',
    model: typeof model === 'string' ? model : undefined,
    usage: usageOf(usage),
    failed: false,
    standardTier: usage.trafficType === undefined || usage.trafficType === 'ON_DEMAND',
  };
}

function usageOf(usage: Record<string, unknown>): Partial<TokenUsage> {
  const prompt = count(usage.promptTokenCount);
  return tokensOf(
    {
      // Tokens that tools add to the prompt are beside it.
      input: prompt === undefined ? undefined : prompt + (count(usage.toolUsePromptTokenCount) ?? 0),
      output: count(usage.candidatesTokenCount) ?? outputOf(usage),
      cacheRead: count(usage.cachedContentTokenCount),
      reasoning: count(usage.thoughtsTokenCount),
    },
    API.google,
  );
}

/** Returns 0 if the model only reasoned: the API leaves out counts of 0. */
const outputOf = (usage: Record<string, unknown>): number | undefined =>
  count(usage.thoughtsTokenCount) === undefined ? undefined : 0;
