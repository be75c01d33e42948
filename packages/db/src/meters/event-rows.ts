import { EVENT_TYPE_PROPERTY, isMeasure } from '@tally/contracts';
import type { MeterRow } from '../entities/meter.ts';
import type { Bind } from '../run-sql.ts';
import { type EventScope, rawEvents } from './event-scope.ts';
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

/** Property names whose values are bounded for each merchant's day. */
export const boundedProperties = (meters: readonly MeterSpec[]): string[] => [
  ...new Set(meters.flatMap(({ dimensions }) => dimensions.flatMap((dimension) => propertyOf(dimension) ?? []))),
];

export type RowsOptions = {
  scope: EventScope;
  /** Whether a value of a property may exceed the limit of its day. */
  checksValues: boolean;
};

/**
 * Writes the meter rows of events for meters of one kind, as common table expressions: `events`, then `rows`. The key
 * of a row: merchant, quarter hour, values of the meter's dimensions, and an element (a value of UNIQUE, a bucket of
 * PERCENTILE).
 */
export function rowsOf(meters: readonly MeterSpec[], { scope, checksValues }: RowsOptions, bind: Bind): string {
  const columns = createColumns(checksValues, bind);
  const arms = meters.map((meter) => rowsOfMeter(meter, scope, columns, bind)).join('\n  union all\n  ');
  return `${columns.events(rawEvents(scope, bind))},
rows as (
  ${arms}
)`;
}

type Columns = ReturnType<typeof createColumns>;

/** Collects the columns of `events` that meters need. All but `events` return the name of a column. */
function createColumns(checksValues: boolean, bind: Bind) {
  const columns = new Map<string, string>();
  const column = (expression: string): string => {
    const name = columns.get(expression) ?? `c${columns.size}`;
    columns.set(expression, name);
    return name;
  };
  const parameters = new Map<string, string>();
  const parameter = (text: string): string => {
    const known = parameters.get(text) ?? `${bind(text)}::text`;
    parameters.set(text, known);
    return known;
  };
  /** Aliases of `beyond` in `events`, by the property that each is joined for. */
  const joins = new Map<string, string>();
  const joinOf = (key: string): string => {
    const alias = joins.get(key) ?? `beyond_${joins.size}`;
    joins.set(key, alias);
    return alias;
  };
  const textOf = (property: string) => `properties ->> ${parameter(propertyOf(property) ?? property)}`;

  return {
    bucket: () => column(BUCKET),

    /** A built-in dimension or a property, as it was sent. */
    sent: (name: string) => column(BUILT_IN[name]?.[0] ?? textOf(name)),

    /** A dimension as it counts: long and folded values as `(other)`. */
    dimension(name: string | undefined): string {
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
    },

    /** The units of an event; null if it has none. */
    amount({ metricType, valueProperty, scale }: MeterSpec): string {
      if (valueProperty !== null) return column(numberIn(textOf(valueProperty), scale));
      if (metricType === 'total_tokens') return column('nullif(prompt_tokens + completion_tokens, 0)');
      if (isMeasure(metricType!)) return column(`nullif(${metricType}, 0)`);
      return column(`(metrics ->> ${parameter(metricType!)})::bigint`);
    },

    /** Writes `events` with all columns asked for so far. */
    events(raw: string): string {
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
)`;
    },
  };
}

function rowsOfMeter(meter: MeterSpec, scope: EventScope, columns: Columns, bind: Bind): string {
  const [d1, d2, d3, d4] = [0, 1, 2, 3].map((index) => columns.dimension(meter.dimensions[index]));
  const where = conditionsOf(meter, scope, columns, bind);
  const {
    value,
    element = `''`,
    more = 'null::timestamptz as at, null::text as event_id',
    only,
  } = sumOf(meter, columns);
  return `select ${meter.id} as meter_id, merchant_id, date, ${columns.bucket()} as bucket,
    ${d1} as d1, ${d2} as d2, ${d3} as d3, ${d4} as d4, ${element} as element, (${value})::numeric as value, ${more}
  from events
  where ${[...where, ...only].join(' and ')}
  group by 2, 3, 4, 5, 6, 7, 8, 9`;
}

/** The conditions on the events that a meter counts. */
function conditionsOf(meter: MeterSpec, scope: EventScope, columns: Columns, bind: Bind): string[] {
  const filter = ([name, values]: [string, string[]]): string => {
    const sent =
      name === 'status'
        ? `(case when failed then 'failure' else 'success' end)`
        : `coalesce(nullif(${columns.sent(name)}, ''), 'unknown')`;
    return `${sent} = any(${bind(values)}::text[])`;
  };
  const isRead = () => `(run > ${bind(meter.createdRun)}::bigint or not exists (
            select from meter_history as history
            where history.meter_id = ${meter.id} and history.date = events.date and not history.done
              and events.merchant_id > history.after_merchant))`;
  return [
    ...(meter.merchantId === '' ? [] : [`merchant_id = ${bind(meter.merchantId)}`]),
    ...(meter.eventType === null ? [] : [`${columns.sent(EVENT_TYPE_PROPERTY)} = ${bind(meter.eventType)}`]),
    ...Object.entries(meter.filters).map(filter),
    ...(meter.filters.status ? ['not adjusted'] : []),
    ...(scope.of === 'day' ? [isRead()] : []),
  ];
}

/** How a meter sums the events of a row, and which of them have something to sum. */
type SumOfMeter = { value: string; element?: string; more?: string; only: string[] };

function sumOf(meter: MeterSpec, columns: Columns): SumOfMeter {
  const { aggregation } = meter;
  if (aggregation === 'COUNT') return { value: 'sum(requests)', only: ['requests <> 0'] };
  if (aggregation === 'UNIQUE') {
    const sent = columns.sent(meter.valueProperty!);
    return { value: 'count(*)', element: elementOf(sent), only: ['not adjusted', `${sent} not in ('', 'unknown')`] };
  }
  const units = columns.amount(meter);
  const only = [`${units} is not null`, ...(aggregation === 'SUM' ? [] : ['not adjusted'])];
  if (aggregation === 'PERCENTILE') return { value: 'count(*)', element: bucketOf(units, meter.scale), only };
  if (aggregation === 'LATEST') {
    const order = 'order by time desc, id collate "C" desc';
    const more = `max(time) as at, (array_agg(id ${order}))[1] as event_id`;
    return { value: `(array_agg(${units} ${order}))[1]`, more, only };
  }
  return { value: `${aggregation.toLowerCase()}(${units})`, only };
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
