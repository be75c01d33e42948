import { ERRORS, type Meter, MINUTE_MS, TallyError } from '@tally/contracts';
import { type ErrorBody, NUMBER_MARK, secretOf } from '@tally/service';
import { type AskAnalytics, meterRows } from './ask.ts';
import {
  type Fields,
  type ForeignEvent,
  fieldsOf,
  invalid,
  isRecord,
  itemOf,
  metricOf,
  type Reading,
  textOf,
  timeOfSeconds,
} from './foreign-event.ts';
import { eventsOf, jsonOf } from './json-body.ts';
import type { SourceMeters } from './meters.ts';
import { merchantOf } from './naming.ts';
import { oneOf, wholeIn } from './query.ts';
import type { EventsRoute, Item, Outcome, Source, SourceRequest } from './source.ts';

/** The same limit as Stripe's. */
const MAX_STREAM = 100;
const SESSION_MS = 15 * 60_000;
const MAX_FIELDS = 100;
const AGGREGATIONS: Record<string, 'SUM' | 'COUNT' | 'LATEST'> = { sum: 'SUM', count: 'COUNT', last: 'LATEST' };

const TYPES: Record<number, string> = { 401: 'authentication_error', 403: 'permission_error', 429: 'rate_limit_error' };

/** Other errors of a request are 400: for any other status, the newest clients throw StripeAPIError. */
const OWN_STATUS: ReadonlySet<number> = new Set([400, 401, 403, 404, 429]);

/** Stripe's clients repeat 503, and 429 only if the answer says so. */
const errorBody: ErrorBody = ({ code, message, details }) => {
  const { status } = ERRORS[code];
  const { field: param } = (details ?? {}) as { field?: string };
  const type = TYPES[status] ?? (status >= 500 ? 'api_error' : 'invalid_request_error');
  const own = code === 'NOT_FOUND' ? 'resource_missing' : code.toLowerCase();
  return {
    ...(status < 500 && !OWN_STATUS.has(status) && { status: 400 }),
    type: 'application/json',
    headers: { 'stripe-should-retry': String(status === 429 || status >= 500) },
    body: { error: { type, code: own, message, ...(param && { param }) } },
  };
};

/** Stripe's meter events: v1 as forms, v2 as JSON, one by one or as a stream; meters and their sums. */
export function stripe({ meters, ask }: { meters: SourceMeters; ask: AskAnalytics }): Source {
  return {
    name: 'stripe',
    prefixes: ['/v1/billing', '/v2/billing'],
    errorBody,
    requestIdHeader: 'request-id',
    events: [
      eventsRoute('/v1/billing/meter_events', fromForm, presentV1, meters),
      eventsRoute('/v2/billing/meter_events', fromJson, presentV2, meters),
      {
        path: '/v2/billing/meter_event_stream',
        async read(request) {
          const reading = await meters.reading(request);
          const events = eventsOf(fieldsOf(jsonOf(request.body)).events, 'events', MAX_STREAM);
          return events.map((event, index) => itemOfEvent(v2Of(event), request, reading, index));
        },
        answer(outcome) {
          assertAnyCounted(outcome);
          return Response.json({});
        },
      },
    ],
    others: [
      { method: 'POST', path: '/v2/billing/meter_event_session', access: 'record', answer: openSession },
      { method: 'GET', path: '/v1/billing/meters', access: 'read', answer: (request) => listMeters(request, meters) },
      {
        method: 'POST',
        path: '/v1/billing/meters',
        access: 'admin',
        answer: (request) => createMeter(request, meters),
      },
      {
        method: 'GET',
        path: '/v1/billing/meters/:meter',
        access: 'read',
        answer: async (request) => Response.json(presentMeter(await meterOf(request, meters))),
      },
      {
        method: 'POST',
        path: '/v1/billing/meters/:meter',
        access: 'admin',
        answer: (request) => renameMeter(request, meters),
      },
      {
        method: 'GET',
        path: '/v1/billing/meters/:meter/event_summaries',
        access: 'read',
        answer: (request) => listSummaries(request, meters, ask),
      },
      {
        method: 'POST',
        path: '/v1/billing/meter_event_adjustments',
        access: 'admin',
        answer: async (request) =>
          Response.json({ ...(await cancelEvent(request, formOf(request))), object: 'billing.meter_event_adjustment' }),
      },
      {
        method: 'POST',
        path: '/v2/billing/meter_event_adjustments',
        access: 'admin',
        answer: async (request) =>
          Response.json({
            ...(await cancelEvent(request, fieldsOf(jsonOf(request.body)))),
            object: 'v2.billing.meter_event_adjustment',
            id: `mea_${request.now}`,
            created: new Date(request.now).toISOString(),
          }),
      },
    ],
  };
}

type MeterEvent = { name: unknown; identifier: unknown; time: unknown; payload: Fields };

function eventsRoute(
  path: string,
  read: (request: SourceRequest) => MeterEvent,
  present: (event: MeterEvent, request: SourceRequest) => object,
  meters: SourceMeters,
): EventsRoute {
  return {
    path,
    async read(request) {
      return [itemOfEvent(read(request), request, await meters.reading(request))];
    },
    answer(outcome, request) {
      assertAnyCounted(outcome);
      return Response.json(present(read(request), request));
    },
  };
}

/** Without an identifier, the idempotency key, which Stripe's clients repeat with a retry, identifies the event. */
function itemOfEvent(event: MeterEvent, { headers }: SourceRequest, reading: Reading, index?: number): Item {
  const { name, payload, time } = event;
  const type = textOf(name);
  if (!type) return { refused: invalid('event_name is missing.') };
  const { stripe_customer_id, value, ...more } = payload;
  const amount = textOf(value);
  if (amount === undefined || !/^-?\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?$/.test(amount))
    return { refused: invalid('payload[value] must be a number.') };
  const key = headers.get('idempotency-key');
  const own = textOf(event.identifier);
  const repeated = key && index !== undefined ? `${key} ${index}` : key;
  const foreign: ForeignEvent = {
    family: 'stripe',
    identity: [own || repeated || crypto.randomUUID()],
    customer: stripe_customer_id,
    time,
    type,
    data: { value: NUMBER_MARK + amount, ...more },
    metric: (path) => (path === 'value' ? metricOf(type) : undefined),
  };
  return itemOf(foreign, reading);
}

function assertAnyCounted({ rejected, results }: Outcome): void {
  const [first] = rejected;
  if (first && rejected.length === results.length) throw new TallyError('INVALID_ENTRY', first.message);
}

/** Parses a form with brackets: `payload[value]=25` is a field of `payload`. */
function formOf({ body }: SourceRequest): Record<string, unknown> {
  const form: Record<string, unknown> = Object.create(null);
  let fields = 0;
  for (const [name, value] of new URLSearchParams(body.toString())) {
    if (++fields > MAX_FIELDS) throw new TallyError('INVALID_INPUT', `A form has at most ${MAX_FIELDS} fields.`);
    const [, outer = name, inner] = /^([^[\]]+)\[([^[\]]+)\]$/.exec(name) ?? [];
    if (inner === undefined) form[outer] = value;
    else {
      const group = isRecord(form[outer]) ? (form[outer] as Record<string, unknown>) : Object.create(null);
      group[inner] = value;
      form[outer] = group;
    }
  }
  return form;
}

function fromForm(request: SourceRequest): MeterEvent {
  const { event_name, identifier, timestamp, payload } = formOf(request);
  const seconds = textOf(timestamp);
  const time = seconds ? timeOfSeconds(seconds) : undefined;
  if (seconds && time === undefined)
    throw new TallyError('INVALID_INPUT', 'timestamp must be seconds since 1970.', { details: { field: 'timestamp' } });
  return { name: event_name, identifier, time, payload: fieldsOf(payload) };
}

const fromJson = ({ body }: SourceRequest): MeterEvent => v2Of(jsonOf(body));

function v2Of(value: unknown): MeterEvent {
  const { event_name, identifier, timestamp, payload } = fieldsOf(value);
  return { name: event_name, identifier, time: timestamp, payload: fieldsOf(payload) };
}

const identifierOf = ({ identifier }: MeterEvent, { headers }: SourceRequest) =>
  textOf(identifier) || headers.get('idempotency-key') || null;

const payloadOf = ({ payload }: MeterEvent) =>
  Object.fromEntries(Object.entries(payload).map(([name, value]) => [name, textOf(value) ?? value]));

const seconds = (ms: number) => Math.floor(ms / 1000);

function presentV1(event: MeterEvent, request: SourceRequest): object {
  const at = textOf(event.time);
  return {
    object: 'billing.meter_event',
    created: seconds(request.now),
    event_name: event.name,
    identifier: identifierOf(event, request),
    livemode: false,
    payload: payloadOf(event),
    timestamp: seconds(at ? Date.parse(at) : request.now),
  };
}

function presentV2(event: MeterEvent, request: SourceRequest): object {
  const created = new Date(request.now).toISOString();
  return {
    object: 'v2.billing.meter_event',
    created,
    event_name: event.name,
    identifier: identifierOf(event, request),
    livemode: false,
    payload: payloadOf(event),
    timestamp: textOf(event.time) || created,
  };
}

/** The token of a session is the key itself: there is no state, and nothing that the caller does not have. */
function openSession({ headers, now }: SourceRequest): Response {
  const key = secretOf(headers.get('authorization') ?? undefined, headers.get('x-api-key') ?? undefined, true);
  if (key === undefined) throw new TallyError('UNAUTHORIZED', 'Send an API key.');
  return Response.json({
    object: 'v2.billing.meter_event_session',
    id: `mes_${now}`,
    authentication_token: key,
    created: new Date(now).toISOString(),
    expires_at: new Date(now + SESSION_MS).toISOString(),
    livemode: false,
  });
}

async function meterOf(request: SourceRequest, meters: SourceMeters): Promise<Meter> {
  const named = request.params.meter!;
  const found = (await meters.list(request, Object.values(AGGREGATIONS))).find(
    ({ id, key }) => key === named || id === named,
  );
  if (!found) throw new TallyError('NOT_FOUND', `No such meter: '${named.slice(0, 80)}'`, { details: { field: 'id' } });
  return found;
}

function presentMeter({ key, name, eventType, aggregation, createdAt, updatedAt }: Meter): object {
  const formula = Object.entries(AGGREGATIONS).find(([, own]) => own === aggregation)?.[0];
  return {
    id: key,
    object: 'billing.meter',
    created: seconds(Date.parse(createdAt ?? '')),
    updated: seconds(Date.parse(updatedAt ?? '')),
    display_name: name,
    event_name: eventType ?? key,
    event_time_window: null,
    customer_mapping: { type: 'by_id', event_payload_key: 'stripe_customer_id' },
    default_aggregation: { formula },
    value_settings: { event_payload_key: 'value' },
    livemode: false,
    status: 'active',
    status_transitions: { deactivated_at: null },
  };
}

const PAGE_SIZE = 10;
const MAX_PAGE_SIZE = 100;

/** Returns a page of a list, by `limit`, `starting_after` and `ending_before` as Stripe's clients send them. */
function pageOf<T>(all: readonly T[], idOf: (item: T) => string, { query }: SourceRequest, url: string): Response {
  const limit = wholeIn(query, 'limit', PAGE_SIZE, MAX_PAGE_SIZE);
  const [after, before] = [query.get('starting_after'), query.get('ending_before')];
  if (after !== null && before !== null)
    throw new TallyError('INVALID_INPUT', 'Give starting_after or ending_before, not both.');
  const placeOf = (id: string) => {
    const place = all.findIndex((each) => idOf(each) === id);
    if (place < 0) throw new TallyError('NOT_FOUND', `No such object: '${id.slice(0, 80)}'`);
    return place;
  };
  if (before !== null) {
    const end = placeOf(before);
    const data = all.slice(Math.max(end - limit, 0), end);
    return Response.json({ object: 'list', url, has_more: end > limit, data });
  }
  const start = after === null ? 0 : placeOf(after) + 1;
  const data = all.slice(start, start + limit);
  return Response.json({ object: 'list', url, has_more: start + limit < all.length, data });
}

async function listMeters(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const status = oneOf(request.query, 'status', ['active', 'inactive'] as const);
  // Tally does not deactivate meters.
  const known = status === 'inactive' ? [] : await meters.list(request, Object.values(AGGREGATIONS));
  const presented = known.map(presentMeter) as { id: string }[];
  return pageOf(presented, ({ id }) => id, request, '/v1/billing/meters');
}

async function createMeter(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { display_name, event_name, default_aggregation, value_settings, customer_mapping } = formOf(request);
  const { formula } = fieldsOf(default_aggregation);
  const aggregation = AGGREGATIONS[String(formula)];
  if (!aggregation) throw new TallyError('INVALID_INPUT', 'default_aggregation[formula] must be sum, count or last.');
  for (const [given, expected] of [
    [fieldsOf(value_settings).event_payload_key, 'value'],
    [fieldsOf(customer_mapping).event_payload_key, 'stripe_customer_id'],
  ])
    if (given !== undefined && given !== expected)
      throw new TallyError('INVALID_INPUT', `event_payload_key must be ${expected}.`);
  const created = await meters.create(request, {
    key: event_name,
    name: display_name,
    aggregation,
    eventType: event_name,
    ...(aggregation !== 'COUNT' && { valueProperty: 'value', scale: 9 }),
  });
  return Response.json(presentMeter(created));
}

async function renameMeter(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { key } = await meterOf(request, meters);
  return Response.json(presentMeter(await meters.rename(request, key, textOf(formOf(request).display_name))));
}

async function listSummaries(request: SourceRequest, meters: SourceMeters, ask: AskAnalytics): Promise<Response> {
  const { query } = request;
  const meter = await meterOf(request, meters);
  const [customer, start, end] = ['customer', 'start_time', 'end_time'].map((name) => {
    const value = query.get(name);
    if (!value) throw new TallyError('INVALID_INPUT', `Missing required param: ${name}.`, { details: { field: name } });
    return value;
  }) as [string, string, string];
  const [from, to] = [timeOfSeconds(start), timeOfSeconds(end)];
  if (from === undefined || to === undefined) throw new TallyError('INVALID_INPUT', 'Times are seconds since 1970.');
  for (const [param, time] of Object.entries({ start_time: from, end_time: to }))
    if (Date.parse(time) % MINUTE_MS !== 0)
      throw new TallyError('INVALID_INPUT', `${param} must be a whole minute.`, { details: { field: param } });
  const grouping = oneOf(query, 'value_grouping_window', ['hour', 'day'] as const);
  const merchantId = merchantOf(customer) ?? customer;
  const window = grouping ?? 'total';
  const rows = await meterRows(ask, request, { meter: meter.key, merchantIds: [merchantId], from, to, window });
  const summaries = rows
    .map(({ start: begin, end: until, value }) => ({
      id: `${meter.key}-${seconds(Date.parse(begin))}-${seconds(Date.parse(until))}`,
      object: 'billing.meter_event_summary',
      aggregated_value: Number(value),
      start_time: seconds(Date.parse(begin)),
      end_time: seconds(Date.parse(until)),
      livemode: false,
      meter: meter.key,
    }))
    // Newest first, like at Stripe.
    .sort((a, b) => b.start_time - a.start_time);
  return pageOf(summaries, ({ id }) => id, request, `/v1/billing/meters/${meter.key}/event_summaries`);
}

/** Takes an event back. Stripe's clients do not name the customer, so the key must be bound to it. */
async function cancelEvent(request: SourceRequest, { event_name, type, cancel }: Fields): Promise<object> {
  const identifier = textOf(fieldsOf(cancel).identifier);
  if (type !== 'cancel' || !identifier)
    throw new TallyError('INVALID_INPUT', 'Expected type=cancel and cancel[identifier].');
  const { merchantId } = request.caller;
  if (merchantId === null)
    throw new TallyError('INVALID_INPUT', 'Use an admin key that is bound to the merchant of the event.');
  const id = `stripe:${identifier}`;
  await request.call('usage.void', { merchantId, id, reason: 'Cancelled by meter_event_adjustments' });
  return { event_name: textOf(event_name), type, status: 'complete', livemode: false, cancel: { identifier } };
}
