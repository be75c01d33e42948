import { type Day, monthOf, trimesterOf, yearOf } from '@tally/contracts';
import { elementOf, type MeterSpec } from './event-rows.ts';

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

/** Restricts finer rows to those of the coarser periods from `first` to `last`, which are dates. */
export function finerRows({ finer, length }: Folded, rows: string, [first, last]: readonly [string, string]): string {
  const period = `${rows}.${PERIOD[finer]}`;
  return finer === 'meter_quarters'
    ? `${period} >= ${first}::timestamp at time zone 'UTC' and ${period} < (${last} + 1)::timestamp at time zone 'UTC'`
    : `${period} >= ${first} and ${period} < (${last} + interval '${length}')::date`;
}

/**
 * Selects coarser rows from finer ones: `from` yields the wanted rows as `fine`, `period` is the coarser period of
 * each.
 */
export const foldedRows = (kind: Kind, from: string, period: string): string => `
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
${foldedRows(kind, from, period)}
order by 1, 2, 3, 4, 5, 6, 7, 8`;
}

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
