import { createHash } from 'node:crypto';
import { ERRORS, type Meter, type Rejection, type StoredEntry, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import type { ErrorBody } from '@tally/service';
import type { Scales } from '../meters/registry.ts';
import { presentLine, typesOf } from '../recent.ts';
import { type AskAnalytics, meterRows } from './ask.ts';
import {
  type Fields,
  type ForeignEvent,
  fieldsOf,
  invalid,
  isRecord,
  itemOf,
  type Reading,
  textOf,
  timeOfSeconds,
} from './foreign-event.ts';
import { eventsOf, jsonOf } from './json-body.ts';
import type { SourceMeters } from './meters.ts';
import { idOf, merchantOf } from './naming.ts';
import { newestEvents } from './newest.ts';
import { momentIn, wholeIn } from './query.ts';
import type { EventsRoute, Item, Outcome, Source, SourceRequest } from './source.ts';

const BASE = '/sources/lago/api/v1';
/** The same limit as Lago's. */
const MAX_BATCH = 100;

const TITLES: Record<number, string> = {
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  413: 'Payload Too Large',
};

const errorBody: ErrorBody = ({ code, message, details }) => {
  const { status } = ERRORS[code];
  const { rejected, field = 'event' } = (details ?? {}) as { rejected?: Rejection[]; field?: string };
  if (status !== 400 && status !== 409)
    return {
      type: 'application/json',
      body: { status, error: TITLES[status] ?? 'Error', code: code.toLowerCase(), message },
    };
  const error_details =
    code === 'BATCH_TOO_LARGE'
      ? { events: ['too_many_events'] }
      : rejected
        ? Object.fromEntries(rejected.map(({ index, message: reason }) => [index, { event: [reason] }]))
        : code === 'CONFLICT'
          ? { code: ['value_already_exist', message] }
          : { [field]: [message] };
  const body = { status: 422, error: 'Unprocessable Entity', code: 'validation_errors', error_details };
  return { status: 422, type: 'application/json', body };
};

/** Lago's events, billable metrics and current usage. A subscription is a merchant, a billable metric is a meter. */
export function lago({
  meters,
  ask,
  findLagoEvent,
}: {
  meters: SourceMeters;
  ask: AskAnalytics;
  findLagoEvent: FindLagoEvent;
}): Source {
  const single: EventsRoute = {
    path: `${BASE}/events`,
    read: async (request) => [itemOfEvent(eventIn(request), await meters.reading(request))],
    answer(outcome, request) {
      const [first] = outcome.rejected;
      if (first) throw new TallyError('INVALID_ENTRY', first.message);
      return Response.json({ event: presentEvent(eventIn(request), request.now) });
    },
  };
  const batch: EventsRoute = {
    path: `${BASE}/events/batch`,
    async read(request) {
      const reading = await meters.reading(request);
      return batchIn(request).map((event) => itemOfEvent(event, reading));
    },
    answer({ rejected }: Outcome, request) {
      // Lago names bad events by their index; good ones are counted, and repeating them does no harm.
      if (rejected.length > 0)
        throw new TallyError('INVALID_ENTRY', 'Some events were not counted.', { details: { rejected } });
      return Response.json({ events: batchIn(request).map((event) => presentEvent(fieldsOf(event), request.now)) });
    },
  };
  return {
    name: 'lago',
    prefixes: ['/sources/lago'],
    errorBody,
    events: [batch, single],
    others: [
      { method: 'GET', path: `${BASE}/events`, access: 'read', answer: (request) => listEvents(request, ask) },
      {
        method: 'GET',
        // Lago's client does not encode ids.
        path: `${BASE}/events/:transaction{.+}`,
        access: 'read',
        answer: (request) => findEvent(request, findLagoEvent),
      },
      {
        method: 'GET',
        path: `${BASE}/customers/:customer/current_usage`,
        access: 'read',
        answer: (request) => currentUsage(request, meters, ask),
      },
      {
        method: 'POST',
        path: `${BASE}/billable_metrics`,
        access: 'admin',
        answer: (request) => createMetric(request, meters),
      },
      {
        method: 'GET',
        path: `${BASE}/billable_metrics`,
        access: 'read',
        answer: (request) => listMetrics(request, meters),
      },
      {
        method: 'GET',
        path: `${BASE}/billable_metrics/:code`,
        access: 'read',
        answer: async (request) => metricAnswer(await metricOf(request, meters)),
      },
      {
        method: 'PUT',
        path: `${BASE}/billable_metrics/:code`,
        access: 'admin',
        answer: (request) => renameMetric(request, meters),
      },
      {
        method: 'DELETE',
        path: `${BASE}/billable_metrics/:code`,
        access: 'admin',
        answer: (request) => removeMetric(request, meters),
      },
    ],
  };
}

const eventIn = ({ body }: SourceRequest): Fields => {
  const { event } = fieldsOf(jsonOf(body));
  if (!isRecord(event)) throw new TallyError('INVALID_INPUT', 'Expected an object in `event`.');
  return event;
};

const batchIn = ({ body }: SourceRequest): unknown[] => eventsOf(fieldsOf(jsonOf(body)).events, 'events', MAX_BATCH);

function itemOfEvent(event: unknown, reading: Reading): Item {
  if (!isRecord(event)) return { refused: invalid('An event must be an object.') };
  const time = textOf(event.timestamp);
  const seconds = time === undefined || time === '' ? undefined : timeOfSeconds(time);
  if (time && seconds === undefined)
    return { refused: invalid('timestamp: invalid_format; send seconds since 1970.'), id: null };
  const foreign: ForeignEvent = {
    family: 'lago',
    identity: [event.transaction_id],
    customer: event.external_subscription_id ?? event.external_customer_id,
    time: seconds,
    type: event.code,
    data: event.properties,
  };
  return itemOf(foreign, reading);
}

function presentEvent(event: Fields, now: number): object {
  const time = textOf(event.timestamp);
  const at = (time ? timeOfSeconds(time) : undefined) ?? new Date(now).toISOString();
  return {
    lago_id: uuidOf(textOf(event.transaction_id) ?? ''),
    transaction_id: textOf(event.transaction_id),
    lago_customer_id: null,
    code: textOf(event.code),
    timestamp: at,
    precise_total_amount_cents: textOf(event.precise_total_amount_cents) ?? null,
    properties: plain(event.properties ?? {}),
    lago_subscription_id: null,
    external_subscription_id: textOf(event.external_subscription_id) ?? null,
    created_at: new Date(now).toISOString(),
  };
}

async function createMetric(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { billable_metric } = fieldsOf(jsonOf(request.body));
  const { name, code, aggregation_type, field_name } = fieldsOf(billable_metric);
  const [key, field, type] = [code, field_name, aggregation_type].map(textOf);
  const aggregation = {
    count_agg: 'COUNT',
    sum_agg: 'SUM',
    max_agg: 'MAX',
    latest_agg: 'LATEST',
    unique_count_agg: 'UNIQUE',
  }[type ?? ''];
  if (!aggregation)
    throw new TallyError('INVALID_INPUT', `Tally has no aggregation ${String(type).slice(0, 40)}.`, {
      details: { field: 'aggregation_type' },
    });
  const created = await meters.create(request, {
    key,
    name: textOf(name),
    aggregation,
    eventType: key,
    ...(aggregation !== 'COUNT' && { valueProperty: aggregation === 'UNIQUE' ? `property:${field}` : field }),
    ...(aggregation !== 'COUNT' && aggregation !== 'UNIQUE' && { scale: 9 }),
  });
  return metricAnswer(created);
}

function presentMetric({ key, name, aggregation, metricType, valueProperty, createdAt }: Meter): object {
  return {
    lago_id: uuidOf(key),
    name,
    code: key,
    description: null,
    recurring: false,
    aggregation_type: AGGREGATIONS[aggregation],
    field_name: (valueProperty ?? metricType)?.replace(/^property:/, '') ?? null,
    created_at: createdAt,
    filters: [],
  };
}

const metricAnswer = (meter: Meter) => Response.json({ billable_metric: presentMetric(meter) });

async function metricOf(request: SourceRequest, meters: SourceMeters): Promise<Meter> {
  const code = request.params.code!;
  const found = (await meters.list(request, Object.keys(AGGREGATIONS))).find(({ key }) => key === code);
  if (!found) throw new TallyError('NOT_FOUND', `There is no billable metric ${code.slice(0, 80)}.`);
  return found;
}

async function listMetrics(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { page, meta } = pageOf(await meters.list(request, Object.keys(AGGREGATIONS)), request);
  return Response.json({ billable_metrics: page.map(presentMetric), meta });
}

async function renameMetric(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const meter = await metricOf(request, meters);
  const known = presentMetric(meter) as Fields;
  const changed = fieldsOf(fieldsOf(jsonOf(request.body)).billable_metric);
  for (const field of ['code', 'aggregation_type', 'field_name'])
    if (changed[field] !== undefined && textOf(changed[field]) !== (known[field] ?? undefined))
      throw new TallyError('INVALID_INPUT', 'Only the name can change; create another billable metric.', {
        details: { field },
      });
  const name = textOf(changed.name);
  if (name === undefined) return metricAnswer(meter);
  return metricAnswer(await meters.rename(request, meter.key, name));
}

async function removeMetric(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const meter = await metricOf(request, meters);
  await meters.remove(request, meter.key);
  return metricAnswer(meter);
}

const PER_PAGE = 20;
const MAX_PER_PAGE = 100;
const MAX_PAGE = 1_000_000;

/** Returns a page of a list, by `page` and `per_page` as Lago's clients send them. */
function pageOf<T>(all: readonly T[], { query }: SourceRequest): { page: T[]; meta: object } {
  const number = wholeIn(query, 'page', 1, MAX_PAGE);
  const size = wholeIn(query, 'per_page', PER_PAGE, MAX_PER_PAGE);
  const pages = Math.ceil(all.length / size);
  return {
    page: all.slice((number - 1) * size, number * size),
    meta: {
      current_page: number,
      next_page: number < pages ? number + 1 : null,
      prev_page: number > 1 ? number - 1 : null,
      total_pages: pages,
      total_count: all.length,
    },
  };
}

/** Lists events among the newest 1,000 of a subscription, with what Tally keeps of their properties. */
async function listEvents(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const { query } = request;
  const [from, to] = [momentIn(query, 'timestamp_from'), momentIn(query, 'timestamp_to')];
  const code = query.get('code');
  const subscription = query.get('external_subscription_id');
  const merchantId = subscription === null ? null : (merchantOf(subscription) ?? subscription);
  const wanted = (await newestEvents(request, ask, merchantId)).filter(({ id, time, properties }) => {
    const at = Date.parse(time);
    if (!id.startsWith(PREFIX)) return false;
    return at >= (from ?? at) && at <= (to ?? at) && (code === null || properties.event_type === code);
  });
  const { page, meta } = pageOf(wanted, request);
  return Response.json({ events: page.map(presentStored), meta });
}

const PREFIX = 'lago:';

/**
 * Returns the newest event with an id of Lago, of a merchant or of any: flushes pending ones, then reads the journal.
 * Throws UNAVAILABLE if the event is not there and may still wait to be flushed.
 */
type FindLagoEvent = (id: string, merchantId: string | null) => Promise<StoredEntry | undefined>;

export const createFindLagoEvent =
  (options: {
    db: Pick<Db, 'events'>;
    scales: Scales;
    flushSoon(merchantIds?: readonly string[]): Promise<boolean>;
  }): FindLagoEvent =>
  async (id, merchantId) => {
    const complete = await options.flushSoon(merchantId === null ? undefined : [merchantId]);
    const line = await options.db.events.ofLago(id, merchantId);
    if (line) return presentLine(line, true, await options.scales(typesOf([line])));
    if (complete) return undefined;
    throw new TallyError('UNAVAILABLE', 'Events still wait to be flushed; ask again.');
  };

/** Finds an event by its id alone, among those of all subscriptions, or of the one that the key is bound to. */
async function findEvent({ params, caller }: SourceRequest, findLagoEvent: FindLagoEvent): Promise<Response> {
  const transaction = params.transaction!;
  const found = await findLagoEvent(idOf(PREFIX + transaction), caller.merchantId);
  if (!found) throw new TallyError('NOT_FOUND', `There is no event ${transaction.slice(0, 80)}.`);
  return Response.json({ event: presentStored(found) });
}

function presentStored({ id, merchantId, time, properties }: StoredEntry): object {
  const { event_type: code, ...kept } = properties;
  const transaction = id.slice(PREFIX.length);
  return {
    lago_id: uuidOf(transaction),
    transaction_id: transaction,
    lago_customer_id: null,
    code,
    timestamp: time,
    precise_total_amount_cents: null,
    properties: kept,
    lago_subscription_id: null,
    external_subscription_id: merchantId,
    created_at: null,
  };
}

/** Queries of one request at the same time. */
const AT_ONCE = 8;

/** The current month of UTC: Tally has no billing periods. */
async function currentUsage(request: SourceRequest, meters: SourceMeters, ask: AskAnalytics): Promise<Response> {
  const { params, query, now } = request;
  const named = query.get('external_subscription_id') ?? params.customer!;
  const subscription = merchantOf(named) ?? named;
  const month = new Date(now).toISOString().slice(0, 7);
  const [year, number] = month.split('-').map(Number) as [number, number];
  const end = new Date(Date.UTC(year, number, 0)).toISOString().slice(0, 10);
  const range = { startDate: `${month}-01`, endDate: end };
  const chargeOf = async ({ key, name, aggregation }: Meter): Promise<object[]> => {
    const rows = await meterRows(ask, request, { meter: key, merchantIds: [subscription], ...range });
    return rows.map(({ value: units }) => ({
      units,
      events_count: null,
      amount_cents: 0,
      amount_currency: 'USD',
      charge: { lago_id: uuidOf(`charge ${key}`), charge_model: 'standard', invoice_display_name: name },
      billable_metric: { lago_id: uuidOf(key), name, code: key, aggregation_type: AGGREGATIONS[aggregation] },
      filters: [],
      grouped_usage: [],
    }));
  };
  const charged = await meters.list(request, Object.keys(AGGREGATIONS), subscription);
  const charges_usage: object[] = [];
  for (let done = 0; done < charged.length; done += AT_ONCE)
    charges_usage.push(...(await Promise.all(charged.slice(done, done + AT_ONCE).map(chargeOf))).flat());
  return Response.json({
    customer_usage: {
      from_datetime: `${range.startDate}T00:00:00Z`,
      to_datetime: `${range.endDate}T23:59:59Z`,
      issuing_date: range.endDate,
      currency: 'USD',
      amount_cents: 0,
      total_amount_cents: 0,
      taxes_amount_cents: 0,
      charges_usage,
    },
  });
}

const AGGREGATIONS: Record<string, string> = {
  ...{ COUNT: 'count_agg', SUM: 'sum_agg', MAX: 'max_agg', LATEST: 'latest_agg', UNIQUE: 'unique_count_agg' },
};

/** Returns the same id for the same text. */
function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    '-',
  );
}

/** Returns JSON as it was sent, with its numbers as text. */
function plain(value: unknown): unknown {
  if (typeof value === 'string') return textOf(value);
  if (Array.isArray(value)) return value.map(plain);
  if (isRecord(value)) return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]));
  return value;
}
