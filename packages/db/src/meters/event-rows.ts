import { EVENT_TYPE_PROPERTY, isMeasure } from '@tally/contracts';
import type { MeterRow } from '../entities/meter.ts';
import type { Bind } from '../run-sql.ts';
import { LOG_GAMMA } from './sketch.ts';

/** The parts of a meter that decide which events it counts, and how. */
export type MeterSpec = Pick<
  MeterRow,
  | 'id'
  | 'merchantId'
  | 'aggregation'
  | 'metricType'
  | 'valueProperty'
  | 'eventType'
  | 'filters'
  | 'dimensions'
  | 'scale'
  | 'createdRun'
>;

const BUCKET = `date_bin('15 minutes', time, '2000-01-01T00:00:00Z')`;

/** The column of a built-in dimension, and its bit in `folded`. */
const BUILT_IN: Record<string, [column: string, bit: number]> = {
  user: ['user_id', 1],
  apiKey: ['api_key', 2],
  model: ['model', 4],
  provider: ['provider', 8],
};

const PROPERTY = 'property:';
/** Returns the property name of a dimension; undefined for a built-in one. */
export const propertyOf = (dimension: string): string | undefined =>
  dimension.startsWith(PROPERTY) ? dimension.slice(PROPERTY.length) : undefined;

/** Longer values do not fit into a key of a rollup. */
const MAX_VALUE_BYTES = 400;

/** A part of a quarter hour of a day: from one moment (inclusive) to another (exclusive). */
export type Edge = { date: string; from: string; until: string };

/** From one quarter hour (inclusive) to another (exclusive). */
export type QuarterHours = { from: string; until: string };

/** Selects the events to read. */
export type EventScope =
  /** Events of flushes, between these days. */
  | { of: 'flushes'; ids: readonly string[]; first: string; last: string }
  /** Events of flushes that are not derived yet, within `inner`, and all of the `edges`, whether derived or not. */
  | {
      of: 'pending';
      merchantIds?: readonly string[] | undefined;
      first: string;
      last: string;
      inner?: QuarterHours;
      edges?: readonly Edge[] | undefined;
    }
  /** Those within `range` that were counted, and adjustments that were made, until a moment. */
  | {
      of: 'known';
      on: string;
      merchantIds?: readonly string[] | undefined;
      first: string;
      last: string;
      range: Omit<Edge, 'date'>;
    }
  /** Derived events of merchants' day and its adjustments; with `within`, only some quarter hours. */
  | { of: 'day'; merchantIds: readonly string[]; date: string; within?: QuarterHours | undefined }
  /** The history of a meter on a day: events derived before its run, of merchants after one and up to another. */
  | { of: 'history'; date: string; after: string; upTo: string | null; before: string }
  /** Some adjustments. */
  | { of: 'adjustments'; merchantId: string; ids: readonly string[] };

/** Property names whose values are bounded for each merchant's day. */
export const boundedProperties = (meters: readonly MeterSpec[]): string[] => [
  ...new Set(meters.flatMap(({ dimensions }) => dimensions.flatMap((dimension) => propertyOf(dimension) ?? []))),
];

const EVENT = `false as adjusted, event.merchant_id, event.date, event.id, event.time, event.failed, event.user_id,
    event.api_key, event.model, event.provider, event.requests, event.failed_requests, event.prompt_tokens,
    event.completion_tokens, event.cost, event.metrics, event.properties, event.folded`;
/** It has a day but no time: intraday it counts at the start of its day. */
const ADJUSTMENT = `true as adjusted, event.merchant_id, event.date, event.id,
    event.date::timestamp at time zone 'UTC' as time, null::boolean as failed, event.user_id, event.api_key,
    event.model, event.provider, event.requests, event.failed_requests, event.prompt_tokens, event.completion_tokens,
    event.cost, event.metrics, null::jsonb as properties, event.folded`;
const NOT_VOIDED = `not exists (
    select from usage_adjustments as voided
    where voided.void_of is not null and voided.merchant_id = event.merchant_id and voided.date = event.date
      and voided.void_of = event.id)`;

/** The unchanged rows of the journal to read, without voided ones. */
export function rawEvents(scope: EventScope, bind: Bind): string {
  switch (scope.of) {
    case 'flushes':
      return eventsOfFlushes(scope, bind);
    case 'pending':
      return pendingEvents(scope, bind);
    case 'known':
      return knownEvents(scope, bind);
    case 'day':
      return eventsOfDay(scope, bind);
    case 'history':
      return historyEvents(scope, bind);
    case 'adjustments':
      return addedAdjustments(scope, bind);
  }
}

type ScopeOf<Kind extends EventScope['of']> = Extract<EventScope, { of: Kind }>;

function eventsOfFlushes(scope: ScopeOf<'flushes'>, bind: Bind): string {
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        where event.flush_id = any(${bind(scope.ids)}::bigint[])
          and event.date between ${bind(scope.first)}::date and ${bind(scope.last)}::date and ${NOT_VOIDED}`;
}

function pendingEvents(scope: ScopeOf<'pending'>, bind: Bind): string {
  const merchants = scope.merchantIds ? `and event.merchant_id = any(${bind(scope.merchantIds)}::text[])` : '';
  const edges = (scope.edges ?? []).map(({ date, ...edge }) => ({
    date: `event.date = ${bind(date)}::date`,
    isWithin: (moment: string) =>
      `${moment} >= ${bind(edge.from)}::timestamptz and ${moment} < ${bind(edge.until)}::timestamptz`,
  }));
  const { inner } = scope;
  const within = inner
    ? `and event.time >= ${bind(inner.from)}::timestamptz and event.time < ${bind(inner.until)}::timestamptz`
    : '';
  const pending = `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_flushes as flush
        join usage_events as event
          on event.flush_id = flush.id and event.date between flush.first_date and flush.last_date
        where flush.metered is null ${merchants}
          and event.date between ${bind(scope.first)}::date and ${bind(scope.last)}::date and ${NOT_VOIDED}
          ${within}`;
  return [
    pending,
    ...edges.flatMap(({ date, isWithin }) => [
      `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        where ${date} ${merchants} and ${isWithin('event.time')} and ${NOT_VOIDED}`,
      `select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${date} ${merchants} and event.void_of is null and ${isWithin("(event.date::timestamp at time zone 'UTC')")}`,
    ]),
  ].join('\n        union all\n        ');
}

function knownEvents(scope: ScopeOf<'known'>, bind: Bind): string {
  const [on, first, last] = [`${bind(scope.on)}::timestamptz`, bind(scope.first), bind(scope.last)];
  const merchants = scope.merchantIds ? `and event.merchant_id = any(${bind(scope.merchantIds)}::text[])` : '';
  const [from, until] = [`${bind(scope.range.from)}::timestamptz`, `${bind(scope.range.until)}::timestamptz`];
  const isWithin = (moment: string) =>
    `event.date between ${first}::date and ${last}::date ${merchants} and ${moment} >= ${from} and ${moment} < ${until}`;
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where ${isWithin('event.time')} and flush.started_at <= ${on} and not exists (
          select from usage_adjustments as voided
          where voided.void_of is not null and voided.merchant_id = event.merchant_id and voided.date = event.date
            and voided.void_of = event.id and voided.created_at <= ${on})
        union all
        select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${isWithin("(event.date::timestamp at time zone 'UTC')")} and event.void_of is null
          and event.created_at <= ${on}`;
}

function eventsOfDay(scope: ScopeOf<'day'>, bind: Bind): string {
  const [merchants, date] = [`${bind(scope.merchantIds)}::text[]`, bind(scope.date)];
  const bounds = scope.within && [bind(scope.within.from), bind(scope.within.until)];
  const within = bounds ? `and event.time >= ${bounds[0]}::timestamptz and event.time < ${bounds[1]}::timestamptz` : '';
  const first = bounds ? `and ${bounds[0]}::timestamptz = ${date}::date::timestamp at time zone 'UTC'` : '';
  return `select ${EVENT}, event.flush_id as place, flush.metered as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where event.merchant_id = any(${merchants}) and event.date = ${date}::date and flush.metered is not null ${within}
          and ${NOT_VOIDED}
        union all
        select ${ADJUSTMENT}, 0, coalesce(event.metered, 0)
        from usage_adjustments as event
        where event.merchant_id = any(${merchants}) and event.date = ${date}::date and event.void_of is null ${first}`;
}

function historyEvents(scope: ScopeOf<'history'>, bind: Bind): string {
  const upTo = scope.upTo === null ? '' : `and event.merchant_id <= ${bind(scope.upTo)}`;
  const where = `event.date = ${bind(scope.date)}::date and event.merchant_id > ${bind(scope.after)} ${upTo}`;
  const before = bind(scope.before);
  return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        join usage_flushes as flush on flush.id = event.flush_id
        where ${where} and flush.metered < ${before}::bigint and ${NOT_VOIDED}
        union all
        select ${ADJUSTMENT}, 0, null::bigint
        from usage_adjustments as event
        where ${where} and event.void_of is null and coalesce(event.metered, 0) < ${before}::bigint`;
}

function addedAdjustments(scope: ScopeOf<'adjustments'>, bind: Bind): string {
  // Each looked up by itself: else Postgres reads all adjustments of the merchant, if it believes them to be few.
  return `select ${ADJUSTMENT}, 0 as place, null::bigint as run
        from unnest(${bind(scope.ids)}::text[]) as added (added_id)
        cross join lateral (
          select * from usage_adjustments where merchant_id = ${bind(scope.merchantId)} and id = added_id limit 1
        ) as event`;
}

export type RowsOptions = {
  scope: EventScope;
  /** Returns whether a value of a property may exceed the limit of its day. */
  checksValues: boolean;
};

/**
 * Writes the meter rows of events for meters of one kind, as common table expressions: `events`, then `rows`. The key
 * of a row: merchant, quarter hour, values of the meter's dimensions, and an element (a value of UNIQUE, a bucket of
 * PERCENTILE).
 */
export function rowsOf(meters: readonly MeterSpec[], { scope, checksValues }: RowsOptions, bind: Bind): string {
  const columns = new Map<string, string>();
  /** Adds a column with this expression to `events`. */
  const column = (expression: string): string => {
    const known = columns.get(expression);
    if (known) return known;
    const name = `c${columns.size}`;
    columns.set(expression, name);
    return name;
  };
  const names = new Map<string, string>();
  const parameter = (text: string): string => {
    const known = names.get(text) ?? `${bind(text)}::text`;
    names.set(text, known);
    return known;
  };
  const property = (name: string) => column(`properties ->> ${parameter(name)}`);

  /** Aliases of `beyond` in `events`, by the property that each is joined for. */
  const joins = new Map<string, string>();
  const joinOf = (key: string): string => {
    const alias = joins.get(key) ?? `beyond_${joins.size}`;
    joins.set(key, alias);
    return alias;
  };

  const dimension = (name: string | undefined): string => {
    if (name === undefined) return `''`;
    const builtIn = BUILT_IN[name];
    if (builtIn) return column(`case when folded & ${builtIn[1]} <> 0 then '(other)' else ${builtIn[0]} end`);
    const key = parameter(propertyOf(name)!);
    const value = propertyValue(key);
    const isBeyond = checksValues ? `${joinOf(key)}.of_value is not null` : 'false';
    return column(
      `case when ${value} = '' then '' when octet_length(${value}) > ${MAX_VALUE_BYTES} or ${isBeyond} then '(other)'
        else ${value} end`,
    );
  };

  /** The units of an event; null if it has none. */
  const amount = ({ metricType, valueProperty, scale }: MeterSpec): string => {
    if (valueProperty !== null) {
      const name = propertyOf(valueProperty) ?? valueProperty;
      return column(numberIn(`properties ->> ${parameter(name)}`, scale));
    }
    if (metricType === 'total_tokens') return column('nullif(prompt_tokens + completion_tokens, 0)');
    if (isMeasure(metricType!)) return column(`nullif(${metricType}, 0)`);
    return column(`(metrics ->> ${parameter(metricType!)})::bigint`);
  };

  const counted = (meter: MeterSpec): string[] => [
    ...(meter.merchantId === '' ? [] : [`merchant_id = ${bind(meter.merchantId)}`]),
    ...(meter.eventType === null ? [] : [`${property(EVENT_TYPE_PROPERTY)} = ${bind(meter.eventType)}`]),
    ...Object.entries(meter.filters).map(([name, values]) => {
      if (name === 'status')
        return `(case when failed then 'failure' else 'success' end) = any(${bind(values)}::text[])`;
      const sent = BUILT_IN[name] ? column(BUILT_IN[name][0]) : property(propertyOf(name)!);
      return `coalesce(nullif(${sent}, ''), 'unknown') = any(${bind(values)}::text[])`;
    }),
    ...(meter.filters.status ? ['not adjusted'] : []),
    ...(scope.of === 'day'
      ? [
          `(run > ${bind(meter.createdRun)}::bigint or not exists (
            select from meter_history as history
            where history.meter_id = ${meter.id} and history.date = events.date and not history.done
              and events.merchant_id > history.after_merchant))`,
        ]
      : []),
  ];

  const arm = (meter: MeterSpec): string => {
    const [d1, d2, d3, d4] = [0, 1, 2, 3].map((index) => dimension(meter.dimensions[index]));
    const where = counted(meter);
    let element = `''`;
    let value: string;
    let more = 'null::timestamptz as at, null::text as event_id';
    if (meter.aggregation === 'COUNT') {
      value = 'sum(requests)';
      where.push('requests <> 0');
    } else if (meter.aggregation === 'UNIQUE') {
      const name = meter.valueProperty!;
      const given = BUILT_IN[name] ? column(BUILT_IN[name][0]) : property(propertyOf(name) ?? name);
      element = elementOf(given);
      value = 'count(*)';
      where.push('not adjusted', `${given} not in ('', 'unknown')`);
    } else {
      const units = amount(meter);
      where.push(`${units} is not null`);
      if (meter.aggregation !== 'SUM') where.push('not adjusted');
      if (meter.aggregation === 'PERCENTILE') {
        element = bucketOf(units, meter.scale);
        value = 'count(*)';
      } else if (meter.aggregation === 'LATEST') {
        const order = 'order by time desc, id collate "C" desc';
        value = `(array_agg(${units} ${order}))[1]`;
        more = `max(time) as at, (array_agg(id ${order}))[1] as event_id`;
      } else value = `${meter.aggregation.toLowerCase()}(${units})`;
    }
    return `select ${meter.id} as meter_id, merchant_id, date, ${column(BUCKET)} as bucket,
    ${d1} as d1, ${d2} as d2, ${d3} as d3, ${d4} as d4, ${element} as element, (${value})::numeric as value, ${more}
  from events
  where ${where.join(' and ')}
  group by 2, 3, 4, 5, 6, 7, 8, 9`;
  };

  const arms = meters.map(arm).join('\n  union all\n  ');
  const raw = rawEvents(scope, bind);
  const own = [...columns].map(([expression, name]) => `${expression} as ${name}`).join(',\n    ');
  const joined = [...joins].map(
    ([key, alias]) => `
  left join beyond as ${alias}
    on ${alias}.of_merchant = merchant_id and ${alias}.of_date = date and ${alias}.of_dimension = ${key}
      and ${alias}.of_value = ${propertyValue(key)}`,
  );
  const source = joins.size === 0 ? `(\n    ${raw}\n  )` : 'raw';
  return `${joins.size === 0 ? '' : valuesBeyond(raw, [...joins.keys()])}events as materialized (
  select adjusted, merchant_id, date, id, time, failed, requests, run,
    ${own}
  from ${source} as event${joined.join('')}
),
rows as (
  ${arms}
)`;
}

/** A property as the value of a dimension; empty where the event has none. */
const propertyValue = (key: string) => `coalesce(nullif(properties ->> ${key}, 'unknown'), '')`;

/**
 * Values of properties on full days that were not admitted, as `beyond`, and the events that have them, as `raw`. Joins,
 * since Citus cannot look values up for each event.
 */
const valuesBeyond = (raw: string, keys: readonly string[]): string => `raw as materialized (
  ${raw}
),
candidates as materialized (
  ${keys
    .map(
      (key) => `select merchant_id, date, dimension, ${propertyValue(key)} as value
  from raw join meter_overflows as full_day using (merchant_id, date)
  where dimension = ${key}`,
    )
    .join('\n  union\n  ')}
),
admitted as materialized (
  select merchant_id, date, dimension, value
  from candidates join meter_values using (merchant_id, date, dimension, value)
),
beyond as materialized (
  select merchant_id as of_merchant, date as of_date, dimension as of_dimension, value as of_value from candidates
  except
  select * from admitted
),
`;

/** The units of a decimal text; null if it is no decimal, or has more decimals than the scale. */
const numberIn = (text: string, scale: number): string => `case
      when ${text} ~ '^-?\\d{1,15}(\\.\\d{1,30})?$' then
        case when scale(trim_scale((${text})::numeric)) <= ${scale} then trim_scale((${text})::numeric * ${10 ** scale}) end
    end`;

/** The DDSketch bucket of units, written like in sketch.ts. */
const bucketOf = (units: string, scale: number): string => `case
      when ${units} = 0 then 'z'
      else (case when ${units} > 0 then 'p' else 'm' end)
        || ceil(ln(abs(${units})::float8 / ${10 ** scale}) / ${LOG_GAMMA})::int
    end`;

/** A value as an element of UNIQUE. */
export const elementOf = (text: string) =>
  `encode(substring(sha256(convert_to(${text}, 'UTF8')) from 1 for 16), 'base64')`;
