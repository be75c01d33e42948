import { DIMENSIONS, MEASURES, PRICED_MEASURES } from '@tally/contracts';
import { eachMeasure, indent, list, negative, numbers, PRICED_AMOUNTS, PRICED_KEYS, someSum } from './columns.mjs';
import { TIME_OF_ADJUSTMENT } from './count.mjs';
import { reratings } from './prices.mjs';
import { addTo, DERIVED, isComplete, isRolledUp, PLACE, PLATFORM, placed, sumOf, sumsFor } from './rollups.mjs';

// Statements that rebuild rollups from finer ones.

/** The dates of the month, or the year, whose first day is \`first\`. */
const monthOf = (first, column = 'date') =>
  `${column} >= ${first}::date and ${column} < (${first}::date + interval '1 month')::date`;

/** Rebuilds a merchant's rows of a derived rollup from a finer one; \`pending\`: without what is not derived yet. */
const remake = ({ table, note, from, where, pending }) => {
  const keys = DERIVED[table];
  const own = keys.filter((key) => key !== 'merchant_id');
  const source = pending
    ? `(
  select date, ${DIMENSIONS.join(', ')}, ${list}
  from ${from}
  where merchant_id = $1 and ${where}
  union all
  select date, ${DIMENSIONS.join(', ')}, ${negative}
  from usage_pending
  where merchant_id = $1 and ${where}
) as derived`
    : `${from}\nwhere merchant_id = $1 and ${where}`;
  return `
-- Rebuilds a merchant's rows of \`${table}\` from ${note}
insert into ${table} (
  merchant_id, ${own.join(', ')},
  ${list})
select
  $1, ${own.map(placed).join(', ')},
  ${sumsFor(table)}
from ${source}
group by ${numbers(keys)}
having ${someSum().replaceAll('units_sum', sumOf(table))}`;
};

/** Rebuilds the rows of a rollup of all merchants from a finer one, for the months between two days. */
const remakePlatform = (table, from, { period = PLATFORM[table][0], where = '' } = {}) => {
  const keys = PLATFORM[table];
  return `
-- Rebuilds the rows of \`${table}\` from \`${from}\`.
-- $1 a day of the first month   $2 a day of the last month
insert into ${table} (
  ${keys.join(', ')},
  ${list})
select
  ${keys.map((key) => (key === keys[0] && period !== key ? placed(key) : key)).join(', ')},
  ${sumsFor(table)}
from ${from}
where ${period} >= date_trunc('month', $1::date) and ${period} < date_trunc('month', $2::date) + interval '1 month'${where}
group by ${numbers(keys)}`;
};

const counts = (columns) => `(
  select ${columns}, ${list}
  from usage_counted_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  select ${columns.replace('time', TIME_OF_ADJUSTMENT)}, ${list}
  from usage_counted_adjustments
  where merchant_id = $1 and date = any($2::date[])
) as counted`;

export const statements = {
  'rebuild/daily': `
-- Rebuilds a merchant's rows of \`usage_daily\` from its events and adjustments.
-- $1 merchant   $2 days that still have their events
insert into usage_daily (
  merchant_id, date, ${DIMENSIONS.join(', ')},
  ${list})
select
  $1, date, ${DIMENSIONS.join(', ')},
  ${sumsFor('usage_daily')}
from ${counts(`date, ${DIMENSIONS.join(', ')}`)}
group by 1, 2, 3, 4, 5, 6
having ${someSum()}`,
  'rebuild/quarter-hours': `
-- Rebuilds a merchant's rows of \`usage_quarter_hours\` from its events and adjustments.
-- $1 merchant   $2 days that still have their events
insert into usage_quarter_hours (
  merchant_id, bucket, model, provider,
  ${list})
select
  $1, ${PLACE.bucket}, model, provider,
  ${sumsFor('usage_daily')}
from ${counts('time, model, provider')}
group by 1, 2, 3, 4
having ${someSum()}`,
  'rebuild/merchant-usage': `
-- Rebuilds a merchant's rows of \`merchant_usage\` from its events and adjustments; for a closed day from its kept sums.
-- $1 merchant   $2 days
insert into merchant_usage (merchant_id, date, metric_type, metric_value)
select $1, date, metric_type, sum(metric_value)
from (
  select date, metric_type, metric_value
  from ${indent(counts('date'))}
  ${indent(eachMeasure())}
  where metric_value <> 0
  union all
  select date, key, value::bigint
  from (
    select date, metrics from usage_events
    where merchant_id = $1 and date = any($2::date[]) and metrics is not null
    union all
    select date, metrics from usage_adjustments
    where merchant_id = $1 and date = any($2::date[]) and metrics is not null
  ) as counted
  cross join lateral jsonb_each_text(metrics)
  union all
  select date, metric_type, metric_value
  from usage_journal_closings
  where merchant_id = $1 and date = any($2::date[])
) as metrics
group by 1, 2, 3`,
  'rebuild/priced': `
-- A merchant's rows of \`usage_priced\` from its events that were not voided, and its re-ratings.
-- $1 merchant   $2 days that still have their events
insert into usage_priced (
  ${PRICED_KEYS.join(', ')},
  ${PRICED_AMOUNTS.join(', ')})
select
  ${PRICED_KEYS.join(', ')},
  ${PRICED_AMOUNTS.map((name) => `sum(${name})`).join(', ')}
from (
  select ${PRICED_KEYS.join(', ')}, ${PRICED_MEASURES.join(', ')}, 0 as reratings
  from usage_priced_events
  where merchant_id = $1 and date = any($2::date[])
  union all
  ${indent(reratings('usage_adjustments', 'merchant_id = $1', 'date = any($2::date[])'))}
) as counted
group by ${numbers(PRICED_KEYS)}`,
  'rebuild/daily-models': remake({
    table: 'usage_daily_models',
    note: `\`usage_daily\`, without what is not derived yet.\n-- $1 merchant   $2 days`,
    from: 'usage_daily',
    where: 'date = any($2::date[])',
    pending: true,
  }),
  'rebuild/monthly': remake({
    table: 'usage_monthly',
    note: `rolled-up days of \`usage_daily\`, without what is not derived yet.\n-- $1 merchant   $2 first day of the month`,
    from: 'usage_daily',
    where: `${monthOf('$2')} and ${isRolledUp}`,
    pending: true,
  }),
  'rebuild/quarter-months': remake({
    table: 'usage_quarter_months',
    note: `the days of complete quarters in \`usage_daily\`, without what is not derived yet.\n-- $1 merchant   $2 first day of the month`,
    from: 'usage_daily',
    where: `${monthOf('$2')} and ${isComplete}`,
    pending: true,
  }),
  'rebuild/monthly-models': remake({
    table: 'usage_monthly_models',
    note: `rolled-up days of \`usage_daily_models\`.\n-- $1 merchant   $2 first day of the month`,
    from: 'usage_daily_models',
    where: `${monthOf('$2')} and ${isRolledUp}`,
  }),
  'rebuild/yearly': remake({
    table: 'usage_yearly',
    note: `\`usage_monthly\`.\n-- $1 merchant   $2 first day of the year`,
    from: '(select month as date, usage_monthly.* from usage_monthly) as months',
    where: `month >= $2::date and month < ($2::date + interval '1 year')::date`,
  }),
  'rebuild/platform': `
-- Adds a merchant's month to the rollups of all merchants, or subtracts it.
-- $1 merchant   $2 first day of the month   $3 1 or -1
with days as (
  select date, model, provider, ${MEASURES.map((name) => `$3::int * ${name} as ${name}`).join(', ')}
  from usage_daily_models
  where merchant_id = $1 and ${monthOf('$2')}
),
months as (
  select * from days where date < (select date from usage_rolled_up)
),
users as (
  select month as date, user_id, ${MEASURES.map((name) => `$3::int * ${name} as ${name}`).join(', ')}
  from usage_monthly
  where merchant_id = $1 and month = $2
),
added_to_usage_platform_daily as (
  ${indent(addTo('usage_platform_daily', PLATFORM.usage_platform_daily, 'days'))}
),
added_to_usage_platform_monthly as (
  ${indent(addTo('usage_platform_monthly', PLATFORM.usage_platform_monthly, 'months'))}
),
added_to_usage_platform_users as (
  ${indent(addTo('usage_platform_users', PLATFORM.usage_platform_users, 'users'))}
)
select 1`,
  'rebuild/platform-daily': remakePlatform('usage_platform_daily', 'usage_daily_models'),
  'rebuild/platform-monthly': remakePlatform('usage_platform_monthly', 'usage_platform_daily', {
    period: 'date',
    where: ' and date < (select date from usage_rolled_up)',
  }),
  'rebuild/platform-users': remakePlatform('usage_platform_users', 'usage_monthly'),
};
