import { MEASURES, PRICED_MEASURES } from '@tally/contracts';
import { eachMeasure, indent, inRange, numericSums, ofMerchants } from './columns.mjs';
import { isComplete, isRolledUp, PLACE } from './rollups.mjs';

// Statements that compare stored forms of numbers, and that keep the sums of days whose events are dropped.

/** Numbers and meters are checked independently: each has its own table of versions found correct. */
const uncheckedDays = (checks) => `
select day.merchant_id, day.period as date, day.changes
from usage_changes as day
left join ${checks} as done on done.date = day.period and done.merchant_id = day.merchant_id
where day.grain = 'day'
  and day.period between $1 and $2
  and (day.period, day.merchant_id) > ($3::date, $4::text)
  and done.changes is distinct from day.changes
order by day.period, day.merchant_id
limit $5`;

const unchecked = {
  'unchecked-days': `
-- Returns a page of merchants' days that changed since reconciliation last found them correct, with their versions.
-- $1 first date   $2 last date   $3, $4 last date and merchant before the page   $5 limit
${uncheckedDays('usage_checks').trim()}`,
  'meter-unchecked-days': `
-- Returns a page of merchants' days that changed since reconciliation last found their meters correct, with their versions
-- and numbers of events.
-- $1 first date   $2 last date   $3, $4 last date and merchant before the page   $5 limit
with page as materialized (
  ${indent(uncheckedDays('meter_checks'))}
)
select merchant_id, date, changes, coalesce(events, 0) as events
from page
left join (
  select merchant_id, date, count(*) as events
  from usage_events
  where date = any(array(select date from page)) and merchant_id = any(array(select merchant_id from page))
  group by merchant_id, date
) as counted using (merchant_id, date)
order by date, merchant_id`,
};

const closeDay = `
-- Keeps the sums of a day's events before its partition is dropped. Returns the number of events and their last write.
-- $1 date
with sums as (
  select
    merchant_id, count(*) as entries,
    ${numericSums()}
  from usage_events
  where date = $1
  group by 1
),
others as (
  select merchant_id, key as metric_type, sum(value::bigint) as metric_value, count(*) as entries
  from usage_events
  cross join lateral jsonb_each_text(metrics)
  where date = $1 and metrics is not null
  group by 1, 2
),
kept as (
  insert into usage_journal_closings (merchant_id, date, metric_type, metric_value, entries)
  select merchant_id, $1, metric_type, metric_value, entries
  from sums
  ${indent(eachMeasure())}
  where metric_value <> 0
  union all
  select merchant_id, $1, metric_type, metric_value, entries
  from others
),
kept_prices as (
  insert into usage_priced_closings (merchant_id, date, ${PRICED_MEASURES.join(', ')})
  select merchant_id, date, ${PRICED_MEASURES.map((name) => `sum(${name})`).join(', ')}
  from usage_priced_events
  where date = $1
  group by 1, 2
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_agg(merchant_id), array_agg($1::date)
  from sums
  having count(*) > 0
),
total as (
  select coalesce(sum(entries), 0) as entries from sums
),
last_write as (
  select max(started_at) as moment from usage_flushes where inserted > 0 and $1 between first_date and last_date
)
select total.entries::text as entries, last_write.moment::text as "lastWrite"
from total
cross join last_write`;

const measuresFrom = (
  table,
  { where = inRange, date = 'date' } = {},
) => `select merchant_id, ${date}, metric_type, metric_value
  from ${table}
  ${indent(eachMeasure())}
  where ${where}`;

const storedForms = `
-- Compares all stored forms of some merchants' days: one row per merchant, day and metric type that any of them has.
-- $1 merchant ids, null for all   $2 first date   $3 last date
-- \`journal\` is events + adjustments; for a closed day, the kept sums + adjustments. A derived rollup is read with the
-- events that are not derived yet. Forms that do not keep a metric type have null for it.
with entries as (
  select merchant_id, date, metric_type, metric_value
  from (
    select
      merchant_id, date,
      ${numericSums()}
    from usage_events
    where ${inRange}
    group by 1, 2
  ) as sums
  ${indent(eachMeasure())}
  union all
  select merchant_id, date, key, sum(value::bigint)
  from usage_events
  cross join lateral jsonb_each_text(metrics)
  where ${inRange} and metrics is not null
  group by 1, 2, 3
  union all
  select merchant_id, date, metric_type, metric_value
  from usage_journal_closings
  where ${inRange}
),
adjustments as (
  ${measuresFrom('usage_adjustments')}
  union all
  select merchant_id, date, key, value::bigint
  from usage_adjustments
  cross join lateral jsonb_each_text(metrics)
  where ${inRange} and metrics is not null
),
rollups as (
  ${measuresFrom('usage_daily').replace('select', `select 'daily' as form,`)}
  union all
  ${measuresFrom('usage_daily_models').replace('select', `select 'daily_models' as form,`)}
  union all
  ${measuresFrom('usage_pending').replace('select', `select 'daily_models' as form,`)}
  union all
  ${measuresFrom('usage_quarter_hours', {
    where: `${ofMerchants}
    and bucket >= $2::date::timestamp at time zone 'UTC' and bucket < ($3::date + 1)::timestamp at time zone 'UTC'`,
    date: `(bucket at time zone 'UTC')::date`,
  }).replace('select', `select 'quarter_hours' as form,`)}
),
forms as (
  select 'journal' as form, * from entries
  union all
  select 'journal', * from adjustments
  union all
  select * from rollups
  union all
  select 'usage', merchant_id, date, metric_type, metric_value
  from merchant_usage
  where ${inRange}
)
select
  merchant_id, date, metric_type,
  coalesce(sum(metric_value) filter (where form = 'journal'), 0) as journal,
  coalesce(sum(metric_value) filter (where form = 'usage'), 0) as usage,
  case when measured then coalesce(sum(metric_value) filter (where form = 'daily'), 0) end as daily,
  case when measured then coalesce(sum(metric_value) filter (where form = 'daily_models'), 0) end as daily_models,
  case when measured then coalesce(sum(metric_value) filter (where form = 'quarter_hours'), 0) end as quarter_hours
from forms
cross join lateral (
  select metric_type in (${MEASURES.map((name) => `'${name}'`).join(', ')}) as measured
) as kind
group by merchant_id, date, metric_type, measured
order by merchant_id, date, metric_type`;

const yearOf = (text) => `date_trunc('year', ${text})::date`;
const first = (text) => `date_trunc('month', ${text}::date)::date`;
const next = (text) => `(date_trunc('month', ${text}::date) + interval '1 month')::date`;
const DAYS = `date >= ${first('$2')} and date < ${next('$3')}`;
const MONTHS = `month between ${first('$2')} and ${first('$3')}`;
const QUARTERS = `quarter_month >= ${first('$2')} and quarter_month < ${next('$3')}`;
const YEARS = `year between ${yearOf('$2::date')} and ${yearOf('$3::date')}`;
const MONTHS_OF_YEARS = `month >= ${yearOf('$2::date')} and month < (${yearOf('$3::date')} + interval '1 year')::date`;
const ofFlushes = (where) => `flush_id in (select id from usage_flushes where ${where})`;

/**
 * Each derived rollup, its period and its rows, and the rows of its source. `isLate`: the source has events that the
 * rollup gets only when their flush is derived.
 */
const OF_MERCHANTS = [
  {
    table: 'usage_monthly',
    period: 'month',
    rows: MONTHS,
    source: { table: 'usage_daily', period: PLACE.month, rows: `${DAYS} and ${isRolledUp}`, isLate: true },
  },
  {
    table: 'usage_quarter_months',
    period: 'quarter_month',
    rows: QUARTERS,
    source: { table: 'usage_daily', period: PLACE.quarter_month, rows: `${DAYS} and ${isComplete}`, isLate: true },
  },
  {
    table: 'usage_monthly_models',
    period: 'month',
    rows: MONTHS,
    source: { table: 'usage_daily_models', period: PLACE.month, rows: `${DAYS} and ${isRolledUp}` },
  },
  {
    table: 'usage_yearly',
    period: 'year',
    rows: YEARS,
    source: { table: 'usage_monthly', period: yearOf('month'), rows: MONTHS_OF_YEARS },
  },
];
const OF_ALL_MERCHANTS = [
  {
    table: 'usage_platform_daily',
    period: 'date',
    rows: DAYS,
    source: { table: 'usage_daily_models', period: 'date', rows: DAYS },
  },
  {
    table: 'usage_platform_monthly',
    period: 'month',
    rows: MONTHS,
    source: {
      table: 'usage_platform_daily',
      period: PLACE.month,
      rows: `${DAYS} and date < (select date from usage_rolled_up)`,
    },
  },
  {
    table: 'usage_flush_sums',
    period: 'date',
    rows: `${DAYS} and ${ofFlushes('derived_at is null')}`,
    source: { table: 'usage_pending', period: 'date', rows: `${DAYS} and ${ofFlushes('summed')}` },
  },
  {
    table: 'usage_platform_users',
    period: 'month',
    rows: MONTHS,
    source: { table: 'usage_monthly', period: 'month', rows: MONTHS },
  },
];

/** Sums the source of a rollup as `parts`, and the rollup as `whole`. */
const sumsOf = (rollup, { merchant, where }) => {
  const { source } = rollup;
  const sums = (part, { table, period, rows }) => `select
    '${rollup.table}' as rollup, ${merchant} as merchant_id, ${period} as first, '${part}' as part,
    ${numericSums()}
  from ${table}
  where ${where} and ${rows}
  group by 2, 3`;
  return [
    sums('parts', source),
    sums('whole', rollup),
    ...(source.isLate ? [sums('whole', { ...source, table: 'usage_pending' })] : []),
  ];
};

const periodDrift = `
-- Returns periods whose derived rollup differs from the sum of its source: months and years from the sum of their
-- rolled-up days. With $1 null, also compares rollups of all merchants, under the merchant ''.
-- $1 merchant ids, null for all   $2 a day of the first period   $3 a day of the last period
with sums as (
  ${[
    ...OF_MERCHANTS.flatMap((rollup) => sumsOf(rollup, { merchant: 'merchant_id', where: ofMerchants })),
    ...OF_ALL_MERCHANTS.flatMap((rollup) => sumsOf(rollup, { merchant: `''`, where: '$1::text[] is null' })),
  ].join('\n  union all\n  ')}
)
select rollup, merchant_id, first as date, metric_type, parts, whole
from (
  select
    rollup, merchant_id, first, metric_type,
    coalesce(sum(metric_value) filter (where part = 'parts'), 0) as parts,
    coalesce(sum(metric_value) filter (where part = 'whole'), 0) as whole
  from sums
  ${indent(eachMeasure())}
  group by 1, 2, 3, 4
) as compared
where parts <> whole
order by 2, 1, 3, 4`;

const pricedOf = (table) => `select merchant_id, date, ${PRICED_MEASURES.join(', ')} from ${table} where ${inRange}`;
const pricedDrift = `
-- Merchants' days of which \`usage_priced\` is not what their events and re-ratings make. Nothing is read before there was a
-- price.
-- $1 merchant ids, null for all   $2 first date   $3 last date
with forms as (
  select 'parts' as form, priced.* from (${pricedOf('usage_priced_events')}) as priced
  union all
  select 'parts', priced.* from (${pricedOf('usage_priced_closings')}) as priced
  union all
  select 'parts', merchant_id, date, ${PRICED_MEASURES.map((name) => (name === 'priced_cost' ? 'cost' : '0')).join(', ')}
  from usage_adjustments
  where ${inRange} and rerated_size is not null
  union all
  select 'whole', priced.* from (${pricedOf('usage_priced')}) as priced
),
sums as (
  select form, merchant_id, date, ${PRICED_MEASURES.map((name) => `sum(${name}) as ${name}`).join(', ')}
  from forms
  where exists (select 1 from price_list where version > 0)
  group by 1, 2, 3
)
select rollup, merchant_id, date, metric_type, parts, whole
from (
  select
    'usage_priced' as rollup, merchant_id, date, metric_type,
    coalesce(sum(metric_value) filter (where form = 'parts'), 0) as parts,
    coalesce(sum(metric_value) filter (where form = 'whole'), 0) as whole
  from sums
  cross join lateral (values
    ${PRICED_MEASURES.map((name) => `('${name}', ${name})`).join(', ')}
  ) as measure (metric_type, metric_value)
  group by 2, 3, 4
) as compared
where parts <> whole
order by 2, 3, 4`;

export const statements = {
  ...unchecked,
  'close-day': closeDay,
  'stored-forms': storedForms,
  'period-drift': periodDrift,
  'priced-drift': pricedDrift,
};
