import { DIMENSIONS, MEASURES } from '@tally/contracts';
import { indent, list, negative, numbers, numericSums, someSum } from './columns.mjs';

// Rollups, their keys and sums, and the statements that derive them.

/** Rollups that the counting transaction adds to. */
export const FINEST = {
  usage_daily: ['merchant_id', 'date', ...DIMENSIONS],
  usage_quarter_hours: ['merchant_id', 'bucket', 'model', 'provider'],
};
/** Rollups derived from flushes in the background: those per merchant, and those of all merchants. */
export const DERIVED = {
  usage_daily_models: ['merchant_id', 'date', 'model', 'provider'],
  usage_monthly: ['merchant_id', 'month', ...DIMENSIONS],
  usage_quarter_months: ['merchant_id', 'quarter_month', ...DIMENSIONS],
  usage_monthly_models: ['merchant_id', 'month', 'model', 'provider'],
  usage_yearly: ['merchant_id', 'year', ...DIMENSIONS],
};
export const PLATFORM = {
  usage_platform_daily: ['date', 'model', 'provider'],
  usage_platform_monthly: ['month', 'model', 'provider'],
  usage_platform_users: ['month', 'user_id'],
};

/** Rollup columns that are computed from a row of the journal or of `usage_daily`. */
export const PLACE = {
  bucket: `date_bin('15 minutes', time, '2000-01-01T00:00:00Z')`,
  month: `date_trunc('month', date)::date`,
  quarter_month: 'usage_quarter_month(date)',
  year: `date_trunc('year', date)::date`,
};
const PLACE_OF_MONTHS = { year: `date_trunc('year', month)::date` };
/**
 * The finest rollups hold bigints, like `merchant_usage`. Derived ones are numeric, so that no overflow stops a
 * derivation.
 */
const NARROW = ['usage_daily', 'usage_quarter_hours'];
export const sumOf = (table) => (NARROW.includes(table) ? 'units_sum' : 'sum');
export const sumsFor = (table, measures = MEASURES) => measures.map((name) => `${sumOf(table)}(${name})`).join(', ');
export const placed = (column) => PLACE[column] ?? column;

/** Adds the rows of `from` to a rollup, its keys in order, so that two who add never wait for each other in turn. */
export const addTo = (table, keys, from, { where = '', merged = false, returning = '', amounts = MEASURES } = {}) => `
insert into ${table} as old (${keys.join(', ')}, ${amounts.join(', ')})
select
  ${keys.map(merged ? String : placed).join(', ')},
  ${merged ? amounts.join(', ') : sumsFor(table, amounts)}
from ${from}${where && `\nwhere ${where}`}${merged ? '' : `\ngroup by ${numbers(keys)}`}
order by ${numbers(keys)}
on conflict (${keys.join(', ')}) do update set
  ${amounts.map((name) => `${name} = old.${name} + excluded.${name}`).join(',\n  ')}${returning && `\nreturning ${returning}`}`;

/** Each coarser sum from the next finer one, so that every event is read once: name, keys, from, table, condition. */
const OF_DAYS = [
  ['day_models', ['merchant_id', 'date', 'model', 'provider'], 'groups', 'usage_daily_models'],
  ['days', ['date', 'model', 'provider'], 'day_models', 'usage_platform_daily'],
];
/** Complete quarters of a month: those before `quarter_month`, and of that the merchants up to `quarter_merchant`. */
export const isComplete = `(${PLACE.quarter_month}, merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)`;

const quarters = (from) => ['quarter_months', DERIVED.usage_quarter_months, from, 'usage_quarter_months'];
/** Months of all merchants get a day once all merchants of the day are rolled up: see roll-up-platform.sql. */
const ofPeriods = (from) => [
  ['months', ['merchant_id', 'month', ...DIMENSIONS], from, 'usage_monthly'],
  ['month_models', ['merchant_id', 'month', 'model', 'provider'], 'months', 'usage_monthly_models'],
  ['years', ['merchant_id', 'year', ...DIMENSIONS], 'months', 'usage_yearly'],
  ['users', ['month', 'user_id'], 'months', 'usage_platform_users'],
  [
    'platform_months',
    ['month', 'model', 'provider'],
    from,
    'usage_platform_monthly',
    'date < (select date from usage_rolled_up)',
  ],
];

/** Merchants' days included in months and years; the others are open. */
export const isRolledUp = '(date, merchant_id) <= (select date, merchant_id from usage_rolled_up)';

/** Rollups with counted rows, for plans: the column of their period. */
const ROWS_COUNTED = { usage_monthly: 'month', usage_quarter_months: 'quarter_month', usage_yearly: 'year' };
const returnNew = (table) => ROWS_COUNTED[table] && `merchant_id, ${ROWS_COUNTED[table]} as period, xmax = 0 as is_new`;

const added = (table, keys, from, amounts = MEASURES) => `added_to_${table} as (
  ${indent(addTo(table, keys, from, { merged: true, returning: returnNew(table), amounts }))}
)`;

/** Sums rows by `keys` and adds them to a rollup. */
const addSums = ([name, keys, from, table, where], measures = MEASURES) => {
  const place = (column) => (from === 'months' ? (PLACE_OF_MONTHS[column] ?? column) : placed(column));
  return `${name} as materialized (
  select
    ${keys.map((key) => (place(key) === key ? key : `${place(key)} as ${key}`)).join(', ')},
    ${numericSums(measures)}
  from ${from}${where ? `\n  where ${where}` : ''}
  group by ${numbers(keys)}
),
${added(table, keys, name, measures)}`;
};

/** Follows `groups`: adds them to the derived rollups of days. */
export const addToDays = (measures) => OF_DAYS.map((each) => addSums(each, measures)).join(',\n');

/** Follows `groups` of a day that is rolled up now: adds them to the rollups of months and years. */
const addToPeriods = `${ofPeriods('groups')
  .map((each) => addSums(each))
  .join(',\n')},
${countNew(Object.keys(ROWS_COUNTED).filter((table) => table !== 'usage_quarter_months'))}`;

/** Does the same with the groups `from`, for what comes later: quarters of a month may be complete. */
export const addLateToPeriods = (
  from,
  measures = MEASURES,
) => `${[...ofPeriods(from), [...quarters(from), isComplete]].map((each) => addSums(each, measures)).join(',\n')},
${countNew(Object.keys(ROWS_COUNTED))}`;

/** Counts the rows that a statement has inserted into rollups, for plans. */
function countNew(tables) {
  return `new_rows as (
  ${tables
    .map((table) => `select '${table}' as rollup, period, merchant_id from added_to_${table} where is_new`)
    .join('\n  union all\n  ')}
),
counted_rows as (
  insert into usage_rollup_rows as old (merchant_id, rollup, period, rows)
  select merchant_id, rollup, period, count(*) from new_rows group by 1, 2, 3
  union all
  select '', rollup, period, count(*) from new_rows group by 1, 2, 3
  order by 1, 2, 3
  on conflict (merchant_id, rollup, period) do update set rows = old.rows + excluded.rows
)`;
}

const summedBy = (keys, from, where) => `(
  select
    ${keys.join(', ')},
    ${numericSums()}
  from ${from}${where && `\n  where ${where}`}
  group by ${numbers(keys)}
  having ${someSum().replaceAll('units_sum', 'sum')}
)`;
export const groupsOf = (from, where = '') =>
  `groups as materialized ${summedBy(['merchant_id', 'date', ...DIMENSIONS], from, where)}`;

/** Rollups and meters are derived from the same flushes, each at its own pace. */
const takeFlushes = (isLeft) => `
-- Takes flushes not yet derived, oldest first; skips those that another process has taken.
-- $1 events at most; always at least one flush   $2 flushes at most
with free as materialized (
  select id, inserted, first_date, last_date
  from usage_flushes
  where ${isLeft}
  order by id
  limit $2
  for update skip locked
)
select id, inserted, first_date, last_date
from (select *, sum(inserted) over (order by id) - inserted as before from free) as slice
where before = 0 or before + inserted <= $1
order by id`;

const [[DAY_MODELS, DAY_MODEL_KEYS, , DAILY_MODELS], DAYS] = OF_DAYS;
const derive = `
-- Adds the events of some flushes to the derived rollups of days, many flushes at a time.
-- $1 flush ids   $2 first date   $3 last date of their events
-- Returns one row: the groups that were added.
with ${DAY_MODELS} as materialized ${summedBy(DAY_MODEL_KEYS, 'usage_counted_events', 'flush_id = any($1::bigint[]) and date between $2 and $3')},
${added(DAILY_MODELS, DAY_MODEL_KEYS, DAY_MODELS)},
${addSums(DAYS)}
select count(*) as groups from ${DAY_MODELS}`;

const derivePeriods = `
-- Adds the events of some flushes whose days are rolled up to the rollups of months and years.
-- $1 flush ids   $2 first date   $3 last date of their events
-- Returns one row: the groups that were added.
with ${groupsOf(
  'usage_counted_events',
  `flush_id = any($1::bigint[]) and date between $2 and $3
    and ${isRolledUp}`,
)},
${addLateToPeriods('groups')}
select count(*) as groups from groups`;

/** Days of some merchants without what is not derived yet. */
const derivedDays = (where) =>
  groupsOf(`(
    select merchant_id, date, ${DIMENSIONS.join(', ')}, ${list}
    from usage_daily
    where ${where} and merchant_id = any($2::text[])
    union all
    select merchant_id, date, ${DIMENSIONS.join(', ')}, ${negative}
    from usage_pending
    where ${where} and merchant_id = any($2::text[])
  ) as counted`);

const rollUp = `
-- Adds a day of some merchants to the rollups of months and years, without its events that are not derived yet.
-- $1 date   $2 merchant ids
-- Returns one row: the groups that were added.
with ${derivedDays('date = $1')},
${addToPeriods}
select count(*) as groups from groups`;

const buildQuarters = `
-- Computes a quarter of a month of some merchants from its days, which are all rolled up.
-- $1 first day of the quarter   $2 merchant ids
-- Returns one row: the groups that were added.
with ${derivedDays(`date between $1 and $1::date + 8 and ${PLACE.quarter_month} = $1`)},
${addSums(quarters('groups'))},
${countNew(['usage_quarter_months'])}
select count(*) as groups from groups`;

const rollUpPlatform = `
-- Adds a day of all merchants to the months of all merchants.
-- $1 date
with days as (
  select date, model, provider, ${list}
  from usage_platform_daily
  where date = $1
)
${addTo('usage_platform_monthly', PLATFORM.usage_platform_monthly, 'days').trim()}`;

export const statements = {
  'take-flushes': takeFlushes('derived_at is null'),
  'take-flushes-for-meters': takeFlushes('metered is null'),
  derive,
  'derive-periods': derivePeriods,
  'roll-up': rollUp,
  'build-quarter-months': buildQuarters,
  'roll-up-platform': rollUpPlatform,
};
