import { type CallOptions, type FinishedCall, isObject, recordCall, type TokenUsage, tokens } from './call.ts';
import { type Method, type StreamReader, watchClient, watchStream } from './watch.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Request = Record<string, unknown>;

/** An Anthropic client whose messages are recorded, streams and the `stream()` helper included. All else is as it was. */
export function wrapAnthropic<Client extends object>(client: Client, options: CallOptions<Request>): Client {
  const method: Method = {
    done: (response, request) => recordAnthropic(response, options, request),
    failed: (request) => recordCall(options, request, { ...callOf({}, request), failed: true }),
    reader: (request) => readerOf(options, request),
  };
  return watchClient(client, {
    'messages.create': method,
    'messages.parse': method,
    'beta.messages.create': method,
    'beta.messages.parse': method,
  });
}

/** Records one finished message. */
export function recordAnthropic(message: unknown, options: CallOptions<Request>, request: Request = {}): void {
  recordCall(options, request, callOf(isObject(message) ? message : {}, request));
}

/** Records a stream of message events when it ends; returns it. */
export function observeAnthropic<S extends AsyncIterable<unknown>>(
  stream: S,
  options: CallOptions<Request>,
  request: Request = {},
): S {
  return watchStream(stream, readerOf(options, request));
}

function readerOf(options: CallOptions<Request>, request: Request): StreamReader {
  let message: Record<string, unknown> = {};
  let failed = false;
  return {
    see(event) {
      if (!isObject(event)) return true;
      if (event.type === 'message_start' && isObject(event.message)) message = event.message;
      if (event.type === 'error') failed = true;
      // The counts of a delta are of the whole message so far: they replace, and null says nothing.
      if (event.type === 'message_delta' && isObject(event.usage)) {
        const told = Object.entries(event.usage).filter(([, value]) => value !== null && value !== undefined);
        message = { ...message, usage: { ...(message.usage as object), ...Object.fromEntries(told) } };
      }
      return true;
    },
    end: (broken) => recordCall(options, request, { ...callOf(message, request), failed: failed || broken }),
  };
}

function callOf(message: Record<string, unknown>, request: Request): FinishedCall {
  const usage = isObject(message.usage) ? message.usage : undefined;
  const model = message.model ?? request.model;
  return {
    provider: 'anthropic',
    model: typeof model === 'string' ? model : undefined,
    usage: usage && usageOf(usage),
    failed: false,
    standardTier: !['batch', 'priority'].includes(String(usage?.service_tier)) && usage?.speed !== 'fast',
  };
}

function usageOf(usage: Record<string, unknown>): TokenUsage {
  const cacheRead = tokens(usage.cache_read_input_tokens);
  const cacheWrite = tokens(usage.cache_creation_input_tokens);
  const details = isObject(usage.output_tokens_details) ? usage.output_tokens_details : {};
  const tools = isObject(usage.server_tool_use) ? usage.server_tool_use : {};
  return {
    // `input_tokens` is only what was neither read from nor written to the cache.
    prompt: tokens(usage.input_tokens) + cacheRead + cacheWrite,
    completion: tokens(usage.output_tokens),
    cacheRead,
    cacheWrite,
    cacheWriteHour: isObject(usage.cache_creation) ? tokens(usage.cache_creation.ephemeral_1h_input_tokens) : 0,
    reasoning: tokens(details.thinking_tokens),
    webSearches: tokens(tools.web_search_requests),
  };
}
