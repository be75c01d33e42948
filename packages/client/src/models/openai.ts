import { type CallOptions, type FinishedCall, isObject, recordCall, type TokenUsage, tokens } from './call.ts';
import { type Method, type StreamReader, watchClient, watchStream } from './watch.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Request = Record<string, unknown>;

/**
 * An OpenAI client (or one of the many that speak its language) whose calls are recorded: chat completions, responses,
 * completions and embeddings, streams included. Everything else about it is as it was. A stream is asked for its usage;
 * the extra event that brings it is not shown to callers who did not ask for it. The `stream()` helpers are not seen:
 * give their final response to `recordOpenAI`.
 */
export function wrapOpenAI<Client extends object>(client: Client, options: CallOptions<Request>): Client {
  const method = (prepare?: Method['prepare']): Method => ({
    ...(prepare ? { prepare } : {}),
    done: (response, request) => recordOpenAI(response, options, request),
    failed: (request) => recordCall(options, request, { ...nothing(request), failed: true }),
    reader: (request) => readerOf(options, request),
  });
  const chat = method(withUsage);
  return watchClient(client, {
    'chat.completions.create': chat,
    'chat.completions.parse': method(),
    'completions.create': chat,
    'responses.create': method(),
    'responses.parse': method(),
    'embeddings.create': method(),
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
  return {
    see(event) {
      if (!isObject(event)) return true;
      // Events of the Responses API carry the response so far; chunks of a chat are the response so far.
      const of = isObject(event.response) ? event.response : event;
      const call = callOf(of, request);
      last = { ...last, model: call.model ?? last.model, ...(isObject(of.usage) ? call : {}) };
      last.failed ||= event.type === 'response.failed' || event.type === 'error' || isObject(event.error);
      return showAll || !(isObject(event.usage) && Array.isArray(event.choices) && event.choices.length === 0);
    },
    end: (failed) => recordCall(options, request, { ...last, failed: last.failed || failed }),
  };
}

function callOf(response: unknown, request: Request): FinishedCall {
  if (!isObject(response)) return nothing(request);
  const usage = isObject(response.usage) ? response.usage : undefined;
  return {
    provider: 'openai',
    model: typeof response.model === 'string' ? response.model : nothing(request).model,
    usage: usage && usageOf(usage),
    failed: response.status === 'failed',
    cost: typeof usage?.cost === 'number' ? usage.cost : undefined,
    standardTier: !['flex', 'priority', 'scale', 'batch'].includes(String(response.service_tier)),
  };
}

function usageOf(usage: Record<string, unknown>): TokenUsage {
  const prompt = isObject(usage.prompt_tokens_details) ? usage.prompt_tokens_details : usage.input_tokens_details;
  const completion = isObject(usage.completion_tokens_details)
    ? usage.completion_tokens_details
    : usage.output_tokens_details;
  return {
    // Both already include their cached and reasoning parts.
    prompt: tokens(usage.prompt_tokens) || tokens(usage.input_tokens),
    completion: tokens(usage.completion_tokens) || tokens(usage.output_tokens),
    cacheRead: isObject(prompt) ? tokens(prompt.cached_tokens) : 0,
    cacheWrite: isObject(prompt) ? tokens(prompt.cache_write_tokens) : 0,
    reasoning: isObject(completion) ? tokens(completion.reasoning_tokens) : 0,
  };
}

const nothing = (request: Request): FinishedCall => ({
  provider: 'openai',
  model: typeof request.model === 'string' ? request.model : undefined,
  usage: undefined,
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
