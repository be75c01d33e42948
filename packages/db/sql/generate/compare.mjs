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

const books = `
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
  ${measuresFrom('usage_daily').replace('select', `select 'daily' as book,`)}
  union all
  ${measuresFrom('usage_daily_models').replace('select', `select 'daily_models' as book,`)}
  union all
  ${measuresFrom('usage_pending').replace('select', `select 'daily_models' as book,`)}
  union all
  ${measuresFrom('usage_quarter_hours', {
    where: `${ofMerchants}
    and bucket >= $2::date::timestamp at time zone 'UTC' and bucket < ($3::date + 1)::timestamp at time zone 'UTC'`,
    date: `(bucket at time zone 'UTC')::date`,
  }).replace('select', `select 'quarter_hours' as book,`)}
),
books as (
  select 'journal' as book, * from entries
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
  coalesce(sum(metric_value) filter (where book = 'journal'), 0) as journal,
  coalesce(sum(metric_value) filter (where book = 'usage'), 0) as usage,
  case when measured then coalesce(sum(metric_value) filter (where book = 'daily'), 0) end as daily,
  case when measured then coalesce(sum(metric_value) filter (where book = 'daily_models'), 0) end as daily_models,
  case when measured then coalesce(sum(metric_value) filter (where book = 'quarter_hours'), 0) end as quarter_hours
from books
cross join lateral (
  select metric_type in (${MEASURES.map((name) => `'${name}'`).join(', ')}) as measured
) as kind
group by merchant_id, date, metric_type, measured
order by merchant_id, date, metric_type`;

const YEAR = `date_trunc('year', %)::date`;
const yearOf = (text) => YEAR.replace('%', text);
export const first = (text) => `date_trunc('month', ${text}::date)::date`;
const next = (text) => `(date_trunc('month', ${text}::date) + interval '1 month')::date`;
const whole = `date >= ${first('$2')} and date < ${next('$3')}`;
const months = `month >= ${yearOf('$2::date')} and month < (${yearOf('$3::date')} + interval '1 year')::date`;
const some = (where) => `${ofMerchants} and ${where}`;
const everyone = (where) => `$1::text[] is null and ${where}`;

const ofFlushes = (where) => `flush_id in (select id from usage_flushes where ${where})`;

/** Each derived rollup and its source: [rollup, period, merchant, part, table, condition, sign]. */
const COMPARED = [
  ['usage_monthly', PLACE.month, 'merchant_id', 'parts', 'usage_daily', some(`${whole} and ${isRolledUp}`)],
  [
    'usage_monthly',
    'month',
    'merchant_id',
    'whole',
    'usage_monthly',
    some(`month between ${first('$2')} and ${first('$3')}`),
  ],
  ['usage_monthly', PLACE.month, 'merchant_id', 'whole', 'usage_pending', some(`${whole} and ${isRolledUp}`)],
  [
    'usage_quarter_months',
    PLACE.quarter_month,
    'merchant_id',
    'parts',
    'usage_daily',
    some(`${whole} and ${isComplete}`),
  ],
  [
    'usage_quarter_months',
    'quarter_month',
    'merchant_id',
    'whole',
    'usage_quarter_months',
    some(`quarter_month >= ${first('$2')} and quarter_month < ${next('$3')}`),
  ],
  [
    'usage_quarter_months',
    PLACE.quarter_month,
    'merchant_id',
    'whole',
    'usage_pending',
    some(`${whole} and ${isComplete}`),
  ],
  [
    'usage_monthly_models',
    PLACE.month,
    'merchant_id',
    'parts',
    'usage_daily_models',
    some(`${whole} and ${isRolledUp}`),
  ],
  [
    'usage_monthly_models',
    'month',
    'merchant_id',
    'whole',
    'usage_monthly_models',
    some(`month between ${first('$2')} and ${first('$3')}`),
  ],
  ['usage_yearly', yearOf('month'), 'merchant_id', 'parts', 'usage_monthly', some(months)],
  [
    'usage_yearly',
    'year',
    'merchant_id',
    'whole',
    'usage_yearly',
    some(`year between ${yearOf('$2::date')} and ${yearOf('$3::date')}`),
  ],
  ['usage_platform_daily', 'date', `''`, 'parts', 'usage_daily_models', everyone(whole)],
  ['usage_platform_daily', 'date', `''`, 'whole', 'usage_platform_daily', everyone(whole)],
  [
    'usage_platform_monthly',
    PLACE.month,
    `''`,
    'parts',
    'usage_platform_daily',
    everyone(`${whole} and date < (select date from usage_rolled_up)`),
  ],
  [
    'usage_platform_monthly',
    'month',
    `''`,
    'whole',
    'usage_platform_monthly',
    everyone(`month between ${first('$2')} and ${first('$3')}`),
  ],
  ['usage_flush_sums', 'date', `''`, 'parts', 'usage_pending', everyone(`${whole} and ${ofFlushes('summed')}`)],
  [
    'usage_flush_sums',
    'date',
    `''`,
    'whole',
    'usage_flush_sums',
    everyone(`${whole} and ${ofFlushes('derived_at is null')}`),
  ],
  [
    'usage_platform_users',
    'month',
    `''`,
    'parts',
    'usage_monthly',
    everyone(`month between ${first('$2')} and ${first('$3')}`),
  ],
  [
    'usage_platform_users',
    'month',
    `''`,
    'whole',
    'usage_platform_users',
    everyone(`month between ${first('$2')} and ${first('$3')}`),
  ],
];

const periodBooks = `
-- Returns periods whose derived rollup differs from the sum of its source: months and years from the sum of their
-- rolled-up days. With $1 null, also compares rollups of all merchants, under the merchant ''.
-- $1 merchant ids, null for all   $2 a day of the first period   $3 a day of the last period
with sums as (
  ${COMPARED.map(
    ([rollup, period, merchant, part, table, where]) => `select
    '${rollup}' as rollup, ${merchant} as merchant_id, ${period} as first, '${part}' as part,
    ${numericSums()}
  from ${table}
  where ${where}
  group by 2, 3`,
  ).join('\n  union all\n  ')}
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
const pricedBooks = `
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
  books,
  'period-books': periodBooks,
  'priced-books': pricedBooks,
};
