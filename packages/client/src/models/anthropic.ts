import { type CallOptions, type FinishedCall, isObject, recordCall } from './call.ts';
import { API, count, type TokenUsage, tokensOf } from './usage.ts';
import { recordedMethod, type StreamReader, watchClient, watchStream } from './watch.ts';

export type { Attributes, CallOptions, PricedCall, TokenUsage } from './call.ts';
export { listPrice } from './call.ts';

type Request = Record<string, unknown>;

/** Wraps an Anthropic client so that its messages are recorded, including streams and the `stream()` helper. */
export function wrapAnthropic<Client extends object>(client: Client, options: CallOptions<Request>): Client {
  const method = recordedMethod({ callOf, readerOf }, options);
  return watchClient(client, {
    'messages.create': method,
    'messages.parse': method,
    'beta.messages.create': method,
    'beta.messages.parse': method,
  });
}

/** Records one finished message. */
export function recordAnthropic(message: unknown, options: CallOptions<Request>, request: Request = {}): void {
  recordCall(options, request, callOf(message, request));
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
  let complete = false;
  return {
    see(event) {
      if (!isObject(event)) return true;
      if (event.type === 'message_start' && isObject(event.message)) {
        // At the start the input is final; the output is a placeholder.
        const { output_tokens: _, ...usage } = isObject(event.message.usage) ? event.message.usage : {};
        message = { ...event.message, usage };
      }
      if (event.type === 'error') failed = true;
      // The counts of a delta are those of the whole message so far: they replace the earlier ones; null reports
      // nothing.
      if (event.type === 'message_delta' && isObject(event.usage)) {
        const reported = Object.entries(event.usage).filter(([, value]) => value !== null && value !== undefined);
        message = { ...message, usage: { ...(message.usage as object), ...Object.fromEntries(reported) } };
        complete ||= isObject(event.delta) && typeof event.delta.stop_reason === 'string';
      }
      complete ||= event.type === 'message_stop';
      return true;
    },
    end: (broken) =>
      recordCall(options, request, { ...callOf(message, request), failed: failed || broken, partial: !complete }),
  };
}

function callOf(answer: unknown, request: Request): FinishedCall {
  const message = isObject(answer) ? answer : {};
  const usage = isObject(message.usage) ? message.usage : {};
  const model = message.model ?? request.model;
  return {
    provider: 'anthropic',
    model: typeof model === 'string' ? model : undefined,
    usage: usageOf(usage),
    failed: false,
    standardTier: !['batch', 'priority'].includes(String(usage.service_tier)) && usage.speed !== 'fast',
  };
}

function usageOf(usage: Record<string, unknown>): Partial<TokenUsage> {
  const details = isObject(usage.output_tokens_details) ? usage.output_tokens_details : {};
  const tools = isObject(usage.server_tool_use) ? usage.server_tool_use : {};
  const writes = isObject(usage.cache_creation) ? usage.cache_creation : {};
  return tokensOf(
    {
      input: count(usage.input_tokens),
      output: count(usage.output_tokens),
      cacheRead: count(usage.cache_read_input_tokens),
      cacheWrite: count(usage.cache_creation_input_tokens),
      cacheWriteHour: count(writes.ephemeral_1h_input_tokens),
      reasoning: count(details.thinking_tokens),
      webSearches: count(tools.web_search_requests),
    },
    API.anthropic,
  );
}
