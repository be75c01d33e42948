import { createHash } from 'node:crypto';
import { ERRORS, type Rejection, TallyError } from '@tally/contracts';
import type { ErrorBody } from '@tally/service';
import type { AskAnalytics } from './ask.ts';
import { type ForeignEvent, invalid, isRecord, itemOf, type Reading, textOf, timeOfSeconds } from './foreign-event.ts';
import { eventsOf, jsonOf } from './json-body.ts';
import type { MeteredFields } from './metered-fields.ts';
import type { EventsRoute, Item, Outcome, Source, SourceRequest } from './source.ts';

type Fields = Readonly<Record<string, unknown>>;

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
        : { [field]: [message] };
  const body = { status: 422, error: 'Unprocessable Entity', code: 'validation_errors', error_details };
  return { status: 422, type: 'application/json', body };
};

/** Lago's events, billable metrics and current usage. A subscription is a merchant, a billable metric is a meter. */
export function lago({ metered, ask }: { metered: MeteredFields; ask: AskAnalytics }): Source {
  const single: EventsRoute = {
    path: `${BASE}/events`,
    read: async (request) => [itemOfEvent(eventIn(request), await readingOf(request, metered))],
    answer(outcome, request) {
      const [first] = outcome.rejected;
      if (first) throw new TallyError('INVALID_ENTRY', first.message);
      return Response.json({ event: presentEvent(eventIn(request), request.now) });
    },
  };
  const batch: EventsRoute = {
    path: `${BASE}/events/batch`,
    async read(request) {
      const reading = await readingOf(request, metered);
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
    prefix: '/sources/lago',
    errorBody,
    events: [batch, single],
    others: [
      {
        method: 'GET',
        path: `${BASE}/customers/:customer/current_usage`,
        access: 'read',
        answer: (request) => currentUsage(request, ask),
      },
      {
        method: 'POST',
        path: `${BASE}/billable_metrics`,
        access: 'admin',
        answer: (request) => createMetric(request, metered),
      },
    ],
  };
}

const readingOf = async ({ caller, now }: SourceRequest, metered: MeteredFields): Promise<Reading> => ({
  caller,
  now,
  metered: await metered(),
});

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

async function createMetric(request: SourceRequest, metered: MeteredFields): Promise<Response> {
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
  await request.call('meters.create', {
    key,
    name: textOf(name),
    aggregation,
    eventType: key,
    ...(aggregation !== 'COUNT' && { valueProperty: aggregation === 'UNIQUE' ? `property:${field}` : field }),
    ...(aggregation !== 'COUNT' && aggregation !== 'UNIQUE' && { scale: 9 }),
  });
  metered.changed();
  const metric = {
    lago_id: uuidOf(key!),
    name: textOf(name),
    code: key,
    aggregation_type: type,
    field_name: field ?? null,
  };
  return Response.json({ billable_metric: { ...metric, created_at: new Date(request.now).toISOString() } });
}

const MAX_METERS = 50;

/** The current month of UTC: Tally has no billing periods. */
async function currentUsage(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const { params, query, now } = request;
  const subscription = query.get('external_subscription_id') ?? params.customer!;
  const month = new Date(now).toISOString().slice(0, 7);
  const [year, number] = month.split('-').map(Number) as [number, number];
  const end = new Date(Date.UTC(year, number, 0)).toISOString().slice(0, 10);
  const range = { startDate: `${month}-01`, endDate: end };
  const { rows } = (await request.call('meters.list', { merchantId: subscription })) as {
    rows: { id: string | null; key: string; name: string; aggregation: string; eventType: string | null }[];
  };
  const meters = rows.filter(({ id, aggregation }) => id !== null && aggregation !== 'PERCENTILE').slice(0, MAX_METERS);
  const charges_usage: object[] = [];
  for (const { key, name, aggregation } of meters) {
    const answer = await ask(request, (client) =>
      client.analytics.meter.query({ meter: key, merchantIds: [subscription], ...range }),
    );
    const units = answer.rows[0]?.value;
    if (units === undefined) continue;
    charges_usage.push({
      units,
      events_count: null,
      amount_cents: 0,
      amount_currency: 'USD',
      charge: { lago_id: uuidOf(`charge ${key}`), charge_model: 'standard', invoice_display_name: name },
      billable_metric: { lago_id: uuidOf(key), name, code: key, aggregation_type: AGGREGATIONS[aggregation] },
      filters: [],
      grouped_usage: [],
    });
  }
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

const fieldsOf = (value: unknown): Fields => (isRecord(value) ? value : {});

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
