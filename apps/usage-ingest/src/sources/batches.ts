import { ERRORS, formatCost, type Rejection, TallyError } from '@tally/contracts';
import { type ErrorBody, unitsOf } from '@tally/service';
import { type Fields, type ForeignEvent, fieldsOf, isRecord, itemOf, textOf } from './foreign-event.ts';
import { eventsOf, jsonOf } from './json-body.ts';
import type { SourceMeters } from './meters.ts';
import type { Item, Outcome, Source, SourceRequest } from './source.ts';

async function itemsOf(
  given: readonly unknown[],
  read: (event: Fields) => ForeignEvent,
  request: SourceRequest,
  meters: SourceMeters,
): Promise<Item[]> {
  const reading = await meters.reading(request);
  return given.map((event) => {
    if (isRecord(event)) return itemOf(read(event), reading);
    return { refused: { code: 'INVALID_ENTRY', message: 'An event must be an object.' } };
  });
}

/** Throws if no event of a request was counted; otherwise `sources.rejections` lists those that were not. */
function assertAnyCounted({ rejected, results }: Outcome): void {
  const [first] = rejected;
  if (first && rejected.length === results.length)
    throw new TallyError('INVALID_ENTRY', `No event was counted. The first: ${first.message}`, {
      details: { rejected },
    });
}

/** Metronome's ingest: a bare list of events. */
export const metronome = (meters: SourceMeters): Source => ({
  name: 'metronome',
  prefixes: ['/sources/metronome'],
  errorBody: ({ message }) => ({ type: 'application/json', body: { message } }),
  events: [
    {
      path: '/sources/metronome/v1/ingest',
      maxItems: 200_000,
      read: (request) =>
        itemsOf(
          eventsOf(jsonOf(request.body), 'the body'),
          (event) => ({
            family: 'metronome',
            identity: [event.transaction_id],
            customer: event.customer_id,
            time: event.timestamp,
            type: event.event_type,
            data: event.properties,
          }),
          request,
          meters,
        ),
      answer(outcome) {
        assertAnyCounted(outcome);
        return new Response(null, { status: 200 });
      },
    },
  ],
});

const ORB_ERRORS = 'https://docs.withorb.com/reference/error-responses#400-request-validation-errors';
const ORB_TYPES: Record<number, string> = {
  401: 'https://docs.withorb.com/reference/error-responses#401-authentication-error',
  404: 'https://docs.withorb.com/reference/error-responses#404-url-not-found',
  413: 'https://docs.withorb.com/reference/error-responses#413-content-too-large',
  429: 'https://docs.withorb.com/reference/error-responses#429-too-many-requests',
  500: 'https://docs.withorb.com/reference/error-responses#500-internal-server-error',
};

const orbError: ErrorBody = ({ code, message, details }) => {
  const { status } = ERRORS[code];
  const { rejected = [] } = (details ?? {}) as { rejected?: Rejection[] };
  return {
    type: 'application/json',
    body: {
      ...{ status, title: code, detail: message, type: ORB_TYPES[status] ?? ORB_ERRORS },
      ...(status === 400 && { validation_errors: [message], validation_failed: failuresOf(rejected) }),
    },
  };
};

const orbKey = (id: string | null) => id?.replace(/^orb:/, '') ?? '';

const failuresOf = (rejected: readonly Rejection[]) =>
  rejected.map(({ id, message }) => ({ idempotency_key: orbKey(id), validation_errors: [message] }));

/** Orb's ingest: events in `events`, those that were not counted in `validation_failed`. */
export const orb = (meters: SourceMeters): Source => ({
  name: 'orb',
  prefixes: ['/sources/orb'],
  errorBody: orbError,
  events: [
    {
      path: '/sources/orb/v1/ingest',
      maxItems: 200_000,
      read: (request) =>
        itemsOf(
          eventsOf(fieldsOf(jsonOf(request.body)).events, 'events'),
          (event) => ({
            family: 'orb',
            identity: [event.idempotency_key],
            customer: event.external_customer_id ?? event.customer_id,
            time: event.timestamp,
            type: event.event_name,
            data: event.properties,
          }),
          request,
          meters,
        ),
      answer(outcome, { query, body }) {
        assertAnyCounted(outcome);
        const validation_failed = failuresOf(outcome.rejected);
        const { events, debug } = fieldsOf(jsonOf(body));
        if (debug !== true && query.get('debug') !== 'true') return Response.json({ validation_failed });
        const keys = eventsOf(events, 'events').map((event) => textOf(fieldsOf(event).idempotency_key));
        const of = (result: string) => keys.filter((_, index) => outcome.results[index] === result);
        return Response.json({
          validation_failed,
          debug: { duplicate: of('duplicate'), ingested: of('accepted') },
        });
      },
    },
  ],
});

const polarError: ErrorBody = ({ code, message }) => {
  const { status } = ERRORS[code];
  if (status !== 400) return { type: 'application/json', body: { error: code, detail: message } };
  return {
    status: 422,
    type: 'application/json',
    body: { detail: [{ loc: ['body', 'events'], msg: message, type: 'value_error' }] },
  };
};

/** Polar's ingest; `_llm` and `_cost` of its AI strategies become tokens, model, provider and cost. */
export const polar = (meters: SourceMeters): Source => ({
  name: 'polar',
  prefixes: ['/sources/polar'],
  errorBody: polarError,
  events: [
    {
      path: '/sources/polar/v1/events/ingest',
      maxItems: 200_000,
      read: (request) =>
        itemsOf(eventsOf(fieldsOf(jsonOf(request.body)).events, 'events'), polarEvent, request, meters),
      answer(outcome) {
        assertAnyCounted(outcome);
        return Response.json({ inserted: outcome.accepted, duplicates: outcome.duplicates });
      },
    },
  ],
});

/** Cents in nano-USD: 10^7. */
const CENT_DECIMALS = 7;

function polarEvent(event: Fields): ForeignEvent {
  const { _llm, _cost, ...metadata } = fieldsOf(event.metadata);
  const { vendor, model, input_tokens, output_tokens, total_tokens: _, cached_input_tokens, ...llm } = fieldsOf(_llm);
  const { amount, currency, ...cost } = fieldsOf(_cost);
  const cents = textOf(currency)?.toLowerCase() === 'usd' ? unitsOf(textOf(amount) ?? '', CENT_DECIMALS) : undefined;
  const tokens = { prompt_tokens: input_tokens, completion_tokens: output_tokens, cached_tokens: cached_input_tokens };
  return {
    family: 'polar',
    // Without an id, a repeat cannot be recognised; Polar cannot either.
    identity: [event.external_id ?? crypto.randomUUID()],
    customer: event.external_customer_id ?? event.customer_id,
    time: event.timestamp,
    type: event.name,
    data: {
      ...(model !== undefined && { model }),
      ...(vendor !== undefined && { provider: vendor }),
      ...llm,
      ...cost,
      ...metadata,
    },
    metrics: {
      ...Object.fromEntries(
        Object.entries(tokens).flatMap(([name, value]) => {
          const text = textOf(value);
          return text === undefined ? [] : [[name, text]];
        }),
      ),
      ...(cents && { cost: formatCost(cents.units) }),
    },
  };
}
