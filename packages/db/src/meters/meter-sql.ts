import { type Day, EVENT_TYPE_PROPERTY, isMeasure, monthOf, trimesterOf, yearOf } from '@tally/contracts';
import type { MeterRow } from '../entities/meter.ts';
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

export type Bind = (value: unknown) => string;

export const bindings = (): { bind: Bind; values: unknown[] } => {
  const values: unknown[] = [];
  return { values, bind: (value) => `$${values.push(value)}` };
};

/** How rows with the same key are merged. */
export type Kind = (typeof KINDS)[number];
export const KINDS = ['add', 'MAX', 'MIN', 'LATEST'] as const;

export const kindOf = ({ aggregation }: Pick<MeterSpec, 'aggregation'>): Kind =>
  aggregation === 'MAX' || aggregation === 'MIN' || aggregation === 'LATEST' ? aggregation : 'add';

/** Groups meters by how their rows are merged, without empty groups. */
export const byKind = <Meter extends Pick<MeterSpec, 'aggregation'>>(meters: readonly Meter[]): [Kind, Meter[]][] =>
  KINDS.map((kind): [Kind, Meter[]] => [kind, meters.filter((meter) => kindOf(meter) === kind)]).filter(
    ([, own]) => own.length > 0,
  );

/** Aggregates of rows with `value`, `at` and `event_id`. */
export const COMBINED: Record<Kind, string> = {
  add: 'sum(value) as value, null::timestamptz as at, null::text as event_id',
  MAX: 'max(value) as value, null::timestamptz as at, null::text as event_id',
  MIN: 'min(value) as value, null::timestamptz as at, null::text as event_id',
  LATEST: `(array_agg(value order by at desc, event_id desc))[1] as value, max(at) as at,
    (array_agg(event_id order by at desc, event_id desc))[1] as event_id`,
};

const IS_LATER = '(excluded.at, excluded.event_id) > (old.at, old.event_id)';
const MERGED: Record<Kind, string> = {
  add: 'value = old.value + excluded.value',
  MAX: 'value = greatest(old.value, excluded.value)',
  MIN: 'value = least(old.value, excluded.value)',
  LATEST: ['value', 'at', 'event_id']
    .map((column) => `${column} = case when ${IS_LATER} then excluded.${column} else old.${column} end`)
    .join(', '),
};

const dayAlone = (day: Day) => ({ startDate: day, endDate: day });

/**
 * The rollups that are folded from the next finer one, finest first. Marks name them by `grain`; `length` is an
 * interval, and `unit` what Postgres calls the grain.
 */
export const FOLDED = [
  {
    grain: 'day',
    table: 'meter_days',
    column: 'date',
    finer: 'meter_quarters',
    length: '1 day',
    unit: 'day',
    periodOf: dayAlone,
  },
  {
    grain: 'month',
    table: 'meter_months',
    column: 'month',
    finer: 'meter_days',
    length: '1 month',
    unit: 'month',
    periodOf: monthOf,
  },
  {
    grain: 'trimester',
    table: 'meter_trimesters',
    column: 'trimester',
    finer: 'meter_months',
    length: '3 months',
    unit: 'quarter',
    periodOf: trimesterOf,
  },
  {
    grain: 'year',
    table: 'meter_years',
    column: 'year',
    finer: 'meter_trimesters',
    length: '1 year',
    unit: 'year',
    periodOf: yearOf,
  },
] as const;
export type Folded = (typeof FOLDED)[number];
export type Grain = Folded['grain'];
export type RollupTable = 'meter_quarters' | Folded['table'];
export const ROLLUP_TABLES: readonly RollupTable[] = ['meter_quarters', ...FOLDED.map(({ table }) => table)];
export const PERIOD = {
  meter_quarters: 'bucket',
  ...Object.fromEntries(FOLDED.map(({ table, column }) => [table, column])),
} as Record<RollupTable, string>;

/**
 * The trimester and the year of a mark: only the fold of a month marks its trimester, and that of a trimester its year,
 * but they are dirty before that already.
 */
export const AROUND = `(values ('month', 'trimester', 'quarter'), ('month', 'year', 'year'), ('trimester', 'year', 'year'))
    as around (grain, coarser, unit)`;
export const START_AROUND = 'date_trunc(unit, period)::date';

export const KEYS = 'd1, d2, d3, d4, element';
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
      return `select ${EVENT}, event.flush_id as place, null::bigint as run
        from usage_events as event
        where event.flush_id = any(${bind(scope.ids)}::bigint[])
          and event.date between ${bind(scope.first)}::date and ${bind(scope.last)}::date and ${NOT_VOIDED}`;
    case 'pending': {
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
    case 'known': {
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
    case 'day': {
      const [merchants, date] = [`${bind(scope.merchantIds)}::text[]`, bind(scope.date)];
      const bounds = scope.within && [bind(scope.within.from), bind(scope.within.until)];
      const within = bounds
        ? `and event.time >= ${bounds[0]}::timestamptz and event.time < ${bounds[1]}::timestamptz`
        : '';
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
    case 'history': {
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
    case 'adjustments':
      // Each looked up by itself: else Postgres reads all adjustments of the merchant, if it believes them to be few.
      return `select ${ADJUSTMENT}, 0 as place, null::bigint as run
        from unnest(${bind(scope.ids)}::text[]) as added (added_id)
        cross join lateral (
          select * from usage_adjustments where merchant_id = ${bind(scope.merchantId)} and id = added_id limit 1
        ) as event`;
  }
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

/** Adds those of `rows` that match `where` to a rollup, in the order of its keys. */
export function addRows(kind: Kind, table: 'meter_quarters' | 'meter_days', where: string): string {
  const period = PERIOD[table];
  const isCoarser = table === 'meter_days';
  return `
insert into ${table} as old (meter_id, merchant_id, ${period}, ${KEYS}, value, at, event_id)
select meter_id, merchant_id, ${period}, ${KEYS}, ${isCoarser ? COMBINED[kind] : 'value, at, event_id'}
from rows
where ${where}${isCoarser ? `\ngroup by meter_id, merchant_id, ${period}, ${KEYS}` : ''}
order by meter_id, merchant_id collate "C", ${period}, d1 collate "C", d2 collate "C", d3 collate "C", d4 collate "C",
  element collate "C"
on conflict (meter_id, merchant_id, ${period}, ${KEYS}) do update set ${MERGED[kind]}`;
}

/**
 * Selects coarser rows from finer ones: `from` yields the wanted rows as `fine`, `period` is the coarser period of
 * each.
 */
const folded = (kind: Kind, from: string, period: string): string => `
select meter_id, merchant_id, period, ${KEYS}, ${COMBINED[kind]}
from (
  select fine.meter_id, fine.merchant_id, ${period} as period, fine.d1, fine.d2, fine.d3, fine.d4, fine.element,
    fine.value, fine.at, fine.event_id
  from ${from}
) as fine
group by meter_id, merchant_id, period, ${KEYS}`;

/**
 * Rebuilds coarser rows from finer ones: `from` yields the wanted rows as `fine`, `period` is the coarser period of
 * each.
 */
export function foldRows(kind: Kind, from: string, to: Folded['table'], period: string): string {
  return `
insert into ${to} (meter_id, merchant_id, ${PERIOD[to]}, ${KEYS}, value, at, event_id)
${folded(kind, from, period)}
order by 1, 2, 3, 4, 5, 6, 7, 8`;
}

/** Compares events with a rollup: a row per meter and merchant, as `compared` writes it. */
export function compareRows(
  kind: Kind,
  table: 'meter_quarters' | 'meter_days',
  meters: readonly MeterSpec[],
  options: RowsOptions & { scope: EventScope & { of: 'day' } },
  bind: Bind,
): string {
  const { merchantIds, date, within } = options.scope;
  const rows = rowsOf(meters, options, bind);
  const day = `${bind(date)}::date`;
  const midnight = (of: string) => `${of}::timestamp at time zone 'UTC'`;
  const stored =
    table === 'meter_days'
      ? `date = ${day}`
      : `bucket >= ${within ? `${bind(within.from)}::timestamptz` : midnight(day)}
    and bucket < ${within ? `${bind(within.until)}::timestamptz` : midnight(`(${day} + 1)`)}`;
  return `with ${rows},
made as (${folded(kind, 'rows as fine', `fine.${PERIOD[table]}`)}),
${compared(table, meters, merchantIds, stored, bind)}`;
}

/** Compares finer rows with a coarser rollup, for clean periods of a range. */
export function compareFolds(
  kind: Kind,
  { grain, table, column, finer, length, unit }: Folded,
  meters: readonly MeterSpec[],
  { merchantIds, first, last }: { merchantIds: readonly string[]; first: string; last: string },
  bind: Bind,
): string {
  const merchants = `${bind(merchantIds)}::text[]`;
  const [ids, from, to] = [bind(meters.map(({ id }) => id)), `${bind(first)}::date`, `${bind(last)}::date`];
  // Read first: on Citus, marks are on the coordinator.
  const dirty = `select merchant_id, period from meter_marks where grain = '${grain}' and merchant_id = any(${merchants})
  union
  select merchant_id, ${START_AROUND} from meter_marks join ${AROUND} using (grain)
  where coarser = '${grain}' and merchant_id = any(${merchants})`;
  const isClean = (period: string) =>
    `not exists (select from dirty where dirty.merchant_id = rollup.merchant_id and dirty.period = ${period})`;
  const period =
    finer === 'meter_quarters'
      ? "(rollup.bucket at time zone 'UTC')::date"
      : `date_trunc('${unit}', rollup.${PERIOD[finer]})::date`;
  const isWithin =
    finer === 'meter_quarters'
      ? `bucket >= ${from}::timestamp at time zone 'UTC' and bucket < (${to} + 1)::timestamp at time zone 'UTC'`
      : `${PERIOD[finer]} >= ${from} and ${PERIOD[finer]} < (${to} + interval '${length}')::date`;
  const fine = `(select *, ${period} as period from ${finer} as rollup
    where ${isWithin} and meter_id = any(${ids}::int[]) and merchant_id = any(${merchants}) and ${isClean(period)})`;
  return `with dirty as materialized (
  ${dirty}
),
made as (${folded(kind, `${fine} as fine`, 'fine.period')}),
${compared(table, meters, merchantIds, `${column} between ${from} and ${to} and ${isClean(`rollup.${column}`)}`, bind)}`;
}

/**
 * Ends a comparison of `made` with a rollup: rows by meter, merchant and day, with the number of differences and one
 * example.
 */
function compared(
  table: RollupTable,
  meters: readonly MeterSpec[],
  merchantIds: readonly string[],
  where: string,
  bind: Bind,
): string {
  const day = table === 'meter_quarters' ? "(period at time zone 'UTC')::date" : 'period';
  const isApart = '(made.value, made.at, made.event_id) is distinct from (stored.value, stored.at, stored.event_id)';
  return `stored as (
  select meter_id, merchant_id, ${PERIOD[table]} as period, ${KEYS}, value, at, event_id
  from ${table} as rollup
  where meter_id = any(${bind(meters.map(({ id }) => id))}::int[]) and merchant_id = any(${bind(merchantIds)}::text[])
    and ${where}
)
select meter_id, merchant_id, ${day} as date, count(*)::int as compared, (count(*) filter (where ${isApart}))::int as apart,
  (array_agg(json_build_object('period', period::text, 'group', array[d1, d2, d3, d4], 'journal', made.value::text,
    'stored', stored.value::text) order by period, d1, d2, d3, d4, element) filter (where ${isApart}))[1] as first
from (
  select meter_id, merchant_id collate "C" as merchant_id, period, d1 collate "C" as d1, d2 collate "C" as d2,
    d3 collate "C" as d3, d4 collate "C" as d4, element collate "C" as element, value, at, event_id collate "C" as event_id
  from made
) as made
full join stored using (meter_id, merchant_id, period, d1, d2, d3, d4, element)
group by 1, 2, 3`;
}

/** A value as an element of UNIQUE. */
const elementOf = (text: string) => `encode(substring(sha256(convert_to(${text}, 'UTF8')) from 1 for 16), 'base64')`;

/**
 * Renames a user in rows: $1 meter, $2 merchant, $3 user, $4 name. `place`: the position of the user among the
 * dimensions, from 0, or -1; `isElement`: the meter counts users as values.
 */
export function renameRows(
  kind: Kind,
  table: RollupTable,
  { place, isElement }: { place: number; isElement: boolean },
): string {
  const renamed = ['d1', 'd2', 'd3', 'd4'].map((name, index) =>
    index === place ? `case when ${name} = $3 then $4 else ${name} end` : name,
  );
  const element = isElement
    ? `case when element = ${elementOf('$3')} then ${elementOf('$4')} else element end`
    : 'element';
  const isOfUser = [
    ...(place >= 0 ? [`d${place + 1} = $3::text`] : []),
    ...(isElement ? [`element = ${elementOf('$3::text')}`] : []),
  ];
  return `
with moved as (
  delete from ${table}
  where meter_id = $1 and merchant_id = $2 and (${isOfUser.join(' or ')})
  returning *
)
insert into ${table} as old (meter_id, merchant_id, ${PERIOD[table]}, ${KEYS}, value, at, event_id)
select meter_id, merchant_id, ${PERIOD[table]}, ${renamed.join(', ')}, ${element}, value, at, event_id
from moved
on conflict (meter_id, merchant_id, ${PERIOD[table]}, ${KEYS}) do update set ${MERGED[kind]}
returning old.meter_id`;
}

/** Marks the days and months of `rows` as dirty; days without quarter hours are summed as they are. */
export const MARKED = `
marked as (
  insert into meter_marks as old (merchant_id, grain, period)
  select merchant_id, grain, period
  from (
    select merchant_id, 'day' as grain, date as period from rows, horizon where date >= quarters_from
    union
    select merchant_id, 'month', date_trunc('month', date)::date from rows
  ) as changed
  order by merchant_id collate "C", grain collate "C", period
  on conflict (merchant_id, grain, period) do update set marked_at = excluded.marked_at
)`;
