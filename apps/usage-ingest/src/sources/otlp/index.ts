import { setImmediate as othersTurn } from 'node:timers/promises';
import { ERRORS, TallyError } from '@tally/contracts';
import type { ErrorBody } from '@tally/service';
import type { EventsRoute, Item, Outcome, Source, SourceRequest } from '../source.ts';
import { ATTRIBUTES, itemOfSpan, type MerchantFrom, skipRepeats } from './genai.ts';
import { spansOfJson } from './json.ts';
import { responseOf, spansOfProtobuf, statusOf } from './protobuf.ts';
import type { SpanIds } from './span.ts';

const PROTOBUF = 'application/x-protobuf';
const JSON_TYPE = 'application/json';
const MAX_BODY_BYTES = 16 * 1024 * 1024;
/** A span in JSON has some hundred elements and members. */
const MAX_JSON_ITEMS = 1_500_000;
/** Spans read before other requests get their turn. */
const SPANS_AT_ONCE = 1_000;
/** Characters of the message about rejected spans. */
const MAX_MESSAGE = 500;

/**
 * OTLP traces over HTTP, in JSON or protobuf: each span that is one call of a model is an event. Skips all other spans.
 */
export const otlp = (merchantFrom: MerchantFrom): Source => ({
  name: 'otlp',
  events: [tracesRoute('/v1/traces', merchantFrom)],
  errorBody,
});

/** Langfuse's clients from version 4 on: OTLP at their own path, with the key as the password of Basic. */
export const langfuse = (merchantFrom: MerchantFrom): Source => ({
  name: 'langfuse',
  prefixes: ['/sources/langfuse'],
  events: [tracesRoute('/sources/langfuse/api/public/otel/v1/traces', merchantFrom)],
  errorBody,
});

const tracesRoute = (path: string, merchantFrom: MerchantFrom): EventsRoute => ({
  path,
  maxBodyBytes: MAX_BODY_BYTES,
  maxItems: MAX_JSON_ITEMS,
  binaryType: PROTOBUF,
  read: (request) => readSpans(request, merchantFrom),
  answer: answerSpans,
});

async function readSpans({ body, headers, caller }: SourceRequest, merchantFrom: MerchantFrom): Promise<Item[]> {
  const type = typeOf(headers.get('content-type'));
  if (type !== PROTOBUF && type !== JSON_TYPE)
    throw new TallyError('UNSUPPORTED_MEDIA_TYPE', `Send ${PROTOBUF} or ${JSON_TYPE}.`);
  const items: Item[] = [];
  const spans: SpanIds[] = [];
  for (const span of type === PROTOBUF ? spansOfProtobuf(body, ATTRIBUTES) : spansOfJson(body, ATTRIBUTES)) {
    spans.push({ spanId: span.spanId, parentId: span.parentId });
    if (items.push(itemOfSpan(span, caller, merchantFrom)) % SPANS_AT_ONCE === 0) await othersTurn();
  }
  skipRepeats(items, spans);
  return items;
}

/** Answers in the type of the request, with the number of rejected spans and the reason of the first. */
function answerSpans({ rejected }: Outcome, { headers }: SourceRequest): Response {
  const type = typeOf(headers.get('content-type'));
  const [first] = rejected;
  const message = first ? `${first.code}: ${first.message}`.slice(0, MAX_MESSAGE) : '';
  if (type === PROTOBUF)
    return new Response(responseOf(rejected.length, message), { headers: { 'content-type': PROTOBUF } });
  return Response.json(
    first ? { partialSuccess: { rejectedSpans: String(rejected.length), errorMessage: message } } : {},
  );
}

/** Codes of google.rpc by HTTP status; INVALID_ARGUMENT for all others below 500. */
const CODES: Record<number, number> = { 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14 };

const errorBody: ErrorBody = ({ code, message }, { headers }) => {
  const { status, action } = ERRORS[code];
  const rpc = CODES[status] ?? 3;
  const text = `${message} ${action}`;
  if (typeOf(headers['content-type']) === PROTOBUF) return { type: PROTOBUF, body: statusOf(rpc, text) };
  return { type: JSON_TYPE, body: { code: rpc, message: text } };
};

const typeOf = (type: string | null | undefined) => (type ?? '').split(';', 1)[0]!.trim().toLowerCase();
