import { type CallOptions, type FinishedCall, isObject, recordCall } from './call.ts';
import { API, count, type TokenUsage, tokensOf } from './usage.ts';
import { recordedMethod, type StreamReader, watchClient, watchStream } from './watch.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Request = Record<string, unknown>;

/**
 * Wraps an OpenAI client (or a compatible one) so that its calls are recorded: chat completions, responses, completions
 * and embeddings, including streams. Streams request usage; callers who did not request it do not see the extra event.
 * The `stream()` helpers are not covered: pass their final response to `recordOpenAI`.
 */
export function wrapOpenAI<Client extends object>(client: Client, options: CallOptions<Request>): Client {
  const method = recordedMethod({ callOf, readerOf }, options);
  const chat = { ...method, prepare: withUsage };
  return watchClient(client, {
    'chat.completions.create': chat,
    'chat.completions.parse': method,
    'completions.create': chat,
    'responses.create': method,
    'responses.parse': method,
    'embeddings.create': method,
  });
}

/** Records one finished response: of chat completions, responses, completions or embeddings. */
export function recordOpenAI(response: unknown, options: CallOptions<Request>, request: Request = {}): void {
  recordCall(options, request, callOf(response, request));
}

/** Records a stream of chat completion chunks or response events when it ends; returns it. */
export function observeOpenAI<S extends AsyncIterable<unknown>>(
  stream: S,
  options: CallOptions<Request>,
  request: Request = {},
): S {
  return watchStream(stream, readerOf(options, request, true));
}

function readerOf(options: CallOptions<Request>, request: Request, showAll = askedForUsage(request)): StreamReader {
  let last: FinishedCall = nothing(request);
  let finished = false;
  let final = false;
  return {
    see(event) {
      if (!isObject(event)) return true;
      // Events of the Responses API carry the response so far; a chunk of a chat is itself the response so far.
      const of = isObject(event.response) ? event.response : event;
      const call = callOf(of, request);
      last = { ...last, model: call.model ?? last.model, ...(isObject(of.usage) ? call : {}) };
      last.failed ||= event.type === 'response.failed' || event.type === 'error' || isObject(event.error);
      const closesChat = isObject(event.usage) && Array.isArray(event.choices) && event.choices.length === 0;
      final ||= closesChat || /^response\.(completed|incomplete|failed)$/.test(String(event.type));
      finished ||= Array.isArray(event.choices) && event.choices.some((each) => isObject(each) && !!each.finish_reason);
      return showAll || !closesChat;
    },
    end: (failed, left) =>
      recordCall(options, request, {
        ...last,
        failed: last.failed || failed,
        partial: !final && (failed || left || !finished),
      }),
  };
}

function callOf(response: unknown, request: Request): FinishedCall {
  if (!isObject(response)) return nothing(request);
  const usage = isObject(response.usage) ? response.usage : {};
  return {
    provider: 'openai',
    model: typeof response.model === 'string' ? response.model : nothing(request).model,
    usage: usageOf(usage),
    failed: response.status === 'failed',
    cost: typeof usage.cost === 'number' ? usage.cost : undefined,
    standardTier: !['flex', 'priority', 'scale', 'batch'].includes(String(response.service_tier)),
  };
}

function usageOf(usage: Record<string, unknown>): Partial<TokenUsage> {
  const ofPrompt = usage.prompt_tokens_details ?? usage.input_tokens_details;
  const ofCompletion = usage.completion_tokens_details ?? usage.output_tokens_details;
  const prompt = isObject(ofPrompt) ? ofPrompt : {};
  const completion = isObject(ofCompletion) ? ofCompletion : {};
  return tokensOf(
    {
      input: count(usage.prompt_tokens) ?? count(usage.input_tokens),
      output: count(usage.completion_tokens) ?? count(usage.output_tokens),
      total: count(usage.total_tokens),
      cacheRead: count(prompt.cached_tokens),
      cacheWrite: count(prompt.cache_write_tokens),
      reasoning: count(completion.reasoning_tokens),
    },
    API.openai,
  );
}

const nothing = (request: Request): FinishedCall => ({
  provider: 'openai',
  model: typeof request.model === 'string' ? request.model : undefined,
  usage: {},
  failed: false,
});

const askedForUsage = (request: Request): boolean =>
  isObject(request.stream_options) && request.stream_options.include_usage === true;

function withUsage(request: Request): Request {
  if (request.stream !== true) return request;
  const asked = isObject(request.stream_options) ? request.stream_options : {};
  if (asked.include_usage !== undefined) return request;
  return { ...request, stream_options: { ...asked, include_usage: true } };
}
