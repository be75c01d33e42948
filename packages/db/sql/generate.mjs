import { writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { DIMENSIONS, MEASURES, PRICED_MEASURES, PRICED_PARTS } from '@tally/contracts';

// Generates every statement that repeats the measures or the dimensions, from their lists in contracts.

/** Rollups that the counting transaction adds to. */
const FINEST = {
  usage_daily: ['merchant_id', 'date', ...DIMENSIONS],
  usage_quarter_hours: ['merchant_id', 'bucket', 'model', 'provider'],
};
/** Rollups derived from flushes in the background: those per merchant, and those of all merchants. */
const DERIVED = {
  usage_daily_models: ['merchant_id', 'date', 'model', 'provider'],
  usage_monthly: ['merchant_id', 'month', ...DIMENSIONS],
  usage_quarter_months: ['merchant_id', 'quarter_month', ...DIMENSIONS],
  usage_monthly_models: ['merchant_id', 'month', 'model', 'provider'],
  usage_yearly: ['merchant_id', 'year', ...DIMENSIONS],
};
const PLATFORM = {
  usage_platform_daily: ['date', 'model', 'provider'],
  usage_platform_monthly: ['month', 'model', 'provider'],
  usage_platform_users: ['month', 'user_id'],
};

/** Rollup columns that are computed from a row of the journal or of `usage_daily`. */
const PLACE = {
  bucket: `date_bin('15 minutes', time, '2000-01-01T00:00:00Z')`,
  month: `date_trunc('month', date)::date`,
  quarter_month: 'usage_quarter_month(date)',
  year: `date_trunc('year', date)::date`,
};
const PLACE_OF_MONTHS = { year: `date_trunc('year', month)::date` };

const list = MEASURES.join(', ');

/** A dimension of a journal row as rollups have it: a value beyond the limit of its day is `(other)`. */
const rolled = (name, bit, row = '') =>
  `case when ${row}folded & ${1 << bit} <> 0 then '(other)' else ${row}${name} end`;
const rolledDimensions = DIMENSIONS.map((name, bit) => `${rolled(name, bit)} as ${name}`);
/**
 * The finest rollups hold bigints, like `merchant_usage`. Derived ones are numeric, so that no overflow stops a
 * derivation.
 */
const NARROW = ['usage_daily', 'usage_quarter_hours'];
const sumOf = (table) => (NARROW.includes(table) ? 'units_sum' : 'sum');
const sumsFor = (table) => MEASURES.map((name) => `${sumOf(table)}(${name})`).join(', ');
const namedSums = MEASURES.map((name) => `units_sum(${name}) as ${name}`).join(', ');
const numericSums = MEASURES.map((name) => `sum(${name}) as ${name}`).join(', ');
const negative = MEASURES.map((name) => `-${name} as ${name}`).join(', ');
const someAmount = MEASURES.map((name) => `${name} <> 0`).join(' or ');
const someSum = MEASURES.map((name) => `units_sum(${name}) <> 0`).join(' or ');
const placed = (column) => PLACE[column] ?? column;
const numbers = (columns) => columns.map((_, index) => index + 1).join(', ');

const indent = (text, by = 2) => text.trim().replaceAll('\n', `\n${' '.repeat(by)}`);

/** The measures of a row, each as a row (metric_type, metric_value). */
const eachMeasure = `cross join lateral (values
  ${MEASURES.map((name) => `('${name}', ${name})`).join(', ')}
) as measure (metric_type, metric_value)`;

/** Adds the rows of `from` to a rollup, its keys in order, so that two who add never wait for each other in turn. */
const addTo = (table, keys, from, { where = '', merged = false, returning = '', amounts = MEASURES } = {}) => `
insert into ${table} as old (${keys.join(', ')}, ${amounts.join(', ')})
select
  ${keys.map(merged ? String : placed).join(', ')},
  ${merged ? amounts.join(', ') : sumsFor(table)}
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
const isComplete = `(${PLACE.quarter_month}, merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)`;

const QUARTERS = ['quarter_months', DERIVED.usage_quarter_months, 'groups', 'usage_quarter_months'];
/** Months of all merchants get a day once all merchants of the day are rolled up: see roll-up-platform.sql. */
const OF_PERIODS = [
  ['months', ['merchant_id', 'month', ...DIMENSIONS], 'groups', 'usage_monthly'],
  ['month_models', ['merchant_id', 'month', 'model', 'provider'], 'months', 'usage_monthly_models'],
  ['years', ['merchant_id', 'year', ...DIMENSIONS], 'months', 'usage_yearly'],
  ['users', ['month', 'user_id'], 'months', 'usage_platform_users'],
  [
    'platform_months',
    ['month', 'model', 'provider'],
    'groups',
    'usage_platform_monthly',
    'date < (select date from usage_rolled_up)',
  ],
];

/** Merchants' days included in months and years; the others are open. */
const isRolledUp = '(date, merchant_id) <= (select date, merchant_id from usage_rolled_up)';

/** Rollups with counted rows, for plans: the column of their period. */
const ROWS_COUNTED = { usage_monthly: 'month', usage_quarter_months: 'quarter_month', usage_yearly: 'year' };
const returnNew = (table) => ROWS_COUNTED[table] && `merchant_id, ${ROWS_COUNTED[table]} as period, xmax = 0 as is_new`;

const added = (table, keys, from) => `added_to_${table} as (
  ${indent(addTo(table, keys, from, { merged: true, returning: returnNew(table) }))}
)`;

/** Sums rows by `keys` and adds them to a rollup. */
const addSums = ([name, keys, from, table, where]) => {
  const place = (column) => (from === 'months' ? (PLACE_OF_MONTHS[column] ?? column) : placed(column));
  return `${name} as materialized (
  select
    ${keys.map((key) => (place(key) === key ? key : `${place(key)} as ${key}`)).join(', ')},
    ${numericSums}
  from ${from}${where ? `\n  where ${where}` : ''}
  group by ${numbers(keys)}
),
${added(table, keys, name)}`;
};

/** Follows `groups`: adds them to the derived rollups of days. */
const addToDays = OF_DAYS.map(addSums).join(',\n');

/** Follows `groups` of a day that is rolled up now: adds them to the rollups of months and years. */
const addToPeriods = `${OF_PERIODS.map(addSums).join(',\n')},
${countNew(Object.keys(ROWS_COUNTED).filter((table) => table !== 'usage_quarter_months'))}`;

/** The same for what comes later: quarters of a month may be complete. */
const addLateToPeriods = `${[...OF_PERIODS, [...QUARTERS, isComplete]].map(addSums).join(',\n')},
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

/** Follows `inserted`, the counted rows: adds them to the finest rollups and sets every mark. */
const counted = `groups as materialized (
  select
    merchant_id, date, ${DIMENSIONS.join(', ')},
    ${namedSums}
  from inserted
  group by 1, 2, 3, 4, 5, 6
  having ${someSum}
),
added_to_usage_daily as (
  ${indent(addTo('usage_daily', FINEST.usage_daily, 'groups', { merged: true }))}
),
added_to_usage_quarter_hours as (
  ${indent(addTo('usage_quarter_hours', FINEST.usage_quarter_hours, 'inserted', { where: someAmount }))}
),
by_merchant_day as materialized (
  select
    merchant_id, date, count(*) as entries,
    ${namedSums}
  from inserted
  group by 1, 2
),
metric_values as (
  select merchant_id, date, metric_type, metric_value
  from by_merchant_day
  ${indent(eachMeasure)}
  where metric_value <> 0
  union all
  select merchant_id, date, key, units_sum(value::bigint)
  from inserted
  cross join lateral jsonb_each_text(metrics)
  where metrics is not null
  group by 1, 2, 3
),
added_to_merchant_usage as (
  insert into merchant_usage as old (merchant_id, date, metric_type, metric_value)
  select merchant_id, date, metric_type, metric_value
  from metric_values
  order by 1, 2, 3
  on conflict (merchant_id, date, metric_type) do update set
    metric_value = old.metric_value + excluded.metric_value
),
touched as (
  -- Always an update: the lock on the row keeps the mark from being taken before this commits.
  insert into usage_touched_days as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  order by 1, 2
  on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
),
changes as (
  insert into usage_changes as old (grain, period, merchant_id)
  select grain, period, merchant_id
  from (
    select 'day' as grain, date as period, merchant_id from by_merchant_day
    union
    select 'month', ${PLACE.month}, merchant_id from by_merchant_day
  ) as changed
  order by 1, 2, 3
  on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_agg(merchant_id), array_agg(date)
  from by_merchant_day
  having count(*) > 0
),
stale as (
  -- Running totals lack what did not come through Redis; they are corrected soon after.
  insert into usage_stale_totals as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  where $1 <> 'stream'
  order by 1, 2
  on conflict (merchant_id, date) do update set marked_at = excluded.marked_at
),
told as materialized (
  select count(pg_notify('usage_changed', merchant_id || ' ' || date))
  from by_merchant_day
)`;

/** What Tally priced: a row for each size of calls, so that a price of long calls can be found again. */
const PRICED_KEYS = ['merchant_id', 'date', ...DIMENSIONS, 'call_size'];
const PRICED_AMOUNTS = [...PRICED_MEASURES, 'reratings'];
const partsOf = (row) =>
  `usage_priced_parts(${['prompt_tokens', 'completion_tokens', 'calls', 'failed', 'metrics'].map((name) => `${row}${name}`).join(', ')}) as parts`;

/** Goes on after `inserted`: adds what Tally priced, or knew no price for. */
const priced = `priced as materialized (
  select
    ${PRICED_KEYS.join(', ')}, count(*) as priced_events,
    ${PRICED_PARTS.map((name) => `units_sum(${name}) as ${name}`).join(', ')}, units_sum(cost) as priced_cost
  from inserted
  cross join lateral ${partsOf('')}
  where price_version is not null
  group by ${numbers(PRICED_KEYS)}
),
added_to_usage_priced as (
  ${indent(addTo('usage_priced', PRICED_KEYS, 'priced', { merged: true, amounts: PRICED_MEASURES }))}
)`;

/** Columns of \`append.sql\`: name, type of its array, and what stands for an absent value. */
const LINE = [
  ['date', 'date'],
  ['merchant_id', 'text'],
  ['id', 'text'],
  ['time', 'bigint', 'to_timestamp(time / 1000.0)'],
  ...DIMENSIONS.map((name) => [name, 'text', `coalesce(${name}, '')`]),
  ['failed', 'boolean', 'coalesce(failed, false)'],
  ['calls', 'bigint', 'coalesce(calls, 1)'],
  ...MEASURES.map((name) => [name, 'bigint', `coalesce(${name}, 0)`]),
  ['metrics', 'text', 'metrics::jsonb'],
  ['properties', 'text', 'properties::jsonb'],
  ['price_version', 'bigint'],
  ['folded', 'smallint'],
  ['origin', 'text'],
];
const lineNames = LINE.map(([name]) => name).join(', ');

const append = `
-- Counts lines: inserts the new ones into the journal, and adds those to the finest rollups. Coarser rollups are derived
-- later from the journal, by flush: see derive.sql.
-- $1 source of the flush   $2 to $${LINE.length + 1} one array per column with an element per line; empty if no line has a value
-- Returns one row: the flush, lines inserted, the days it changed, and the active budgets of its merchants.
-- Of repeats within the batch the first line counts, as in Redis.
-- Sums come only from \`inserted\` or its \`groups\`, without joins: the planner expects one row of a CTE, and would loop.
with lines as materialized (
  select *
  from unnest(
    ${LINE.map(([, type], index) => `$${index + 2}::${type}[]`).join(', ')}
  ) with ordinality as line (
    ${lineNames},
    ordinality)
),
flush as materialized (
  select nextval(pg_get_serial_sequence('usage_flushes', 'id')) as id
),
inserted as (
  insert into usage_events (
    ${lineNames},
    flush_id)
  select
    ${LINE.map(([name, , value]) => value ?? name).join(',\n    ')},
    (select id from flush)
  from lines
  order by lines.date, lines.merchant_id, lines.id, lines.ordinality
  on conflict (date, merchant_id, id) do nothing
  returning
    merchant_id, date, time, ${list}, metrics, calls, failed, price_version,
    ${rolledDimensions.join(',\n    ')}
),
${counted},
${priced},
recorded as (
  -- A flush that counted nothing has nothing to derive.
  insert into usage_flushes (id, source, entries, inserted, merchants, first_date, last_date, derived_at)
  overriding system value
  select
    (select id from flush), $1, cardinality($2), coalesce(sum(entries), 0), count(distinct merchant_id),
    min(date), max(date), case when count(*) = 0 then clock_timestamp() end
  from by_merchant_day
)
select
  (select count from told) as told,
  (select id from flush) as flush_id,
  coalesce((select sum(entries) from by_merchant_day), 0) as inserted,
  coalesce((
    select json_agg(json_build_object('merchantId', merchant_id, 'date', date) order by merchant_id, date)
    from by_merchant_day
  ), '[]') as changed,
  coalesce((
    select array_agg(id)
    from budgets
    where removed_at is null and (merchant_id = '' or merchant_id in (select merchant_id from by_merchant_day))
  ), '{}') as budgets`;

/** The normalised content of a line of a batch, or of a journal row: without its time and anything derived. */
const content = (row) => `jsonb_strip_nulls(jsonb_build_object(
    'id', ${row}.id, 'failed', nullif(${row}.failed, false), 'calls', nullif(${row}.calls, 1),
    ${DIMENSIONS.map((name) => `'${name}', nullif(${row}.${name}, '')`).join(', ')},
    ${MEASURES.filter((name) => !DERIVED_MEASURES.includes(name))
      .map((name) => `'${name}', ${name === 'cost' ? sentCost(row) : `nullif(${row}.${name}, 0)`}`)
      .join(', ')},
    'metrics', ${row}.metrics::jsonb, 'properties', ${row}.properties::jsonb
  ))`;
/** A cost that Tally computed is not content: a repeat may be priced differently. */
const sentCost = (row) => `case when ${row}.price_version is null then nullif(${row}.cost, 0) end`;
const DERIVED_MEASURES = ['requests', 'failed_requests'];

const conflicts = `
-- Stores lines whose content differs from the row with their identity. The same line again stores nothing.
-- $1 source   $2 lines as json, one element per line   $3 to $${LINE.length + 2} the columns of the lines, as in append.sql
-- Returns their positions, counted from 0.
with compared as materialized (
  select
    line.ordinality, line.merchant_id, line.date, line.id, line.time, event.time as counted_time, line.json,
    ${indent(content('line'))} as sent,
    ${indent(content('event'))} as counted
  from unnest(
    $2::text[], ${LINE.map(([, type], index) => `$${index + 3}::${type}[]`).join(', ')}
  ) with ordinality as line (
    json, ${lineNames},
    ordinality)
  join usage_events as event
    on event.date = line.date and event.merchant_id = line.merchant_id and event.id = line.id
),
stored as (
  insert into usage_conflicts (
    merchant_id, date, entry_id, time, digest, counted_time, counted_digest, line, source)
  select
    merchant_id, date, id, to_timestamp(time / 1000.0), encode(sha256(convert_to(sent::text, 'UTF8')), 'hex'),
    counted_time, encode(sha256(convert_to(counted::text, 'UTF8')), 'hex'), json::jsonb, $1
  from compared
  where sent <> counted
  order by merchant_id, date, id, ordinality
  on conflict (merchant_id, date, entry_id, digest) do nothing
)
select (ordinality - 1)::int as position
from compared
where sent <> counted
order by 1`;

const ADJUSTMENT = `merchant_id, id, date, ${DIMENSIONS.join(', ')},
    ${list}, metrics, folded, reason, actor, rerated_size, time`;

const fromAdjustments = (json) => `from json_to_recordset(${json}::json) as adjustment (
    merchant_id text, id text, date date, ${DIMENSIONS.map((name) => `${name} text`).join(', ')},
    ${MEASURES.map((name) => `${name} bigint`).join(', ')},
    metrics jsonb, folded smallint, reason text, actor text, rerated_size smallint, time timestamptz)`;

/** A void counts at the time of its event; any other adjustment has no time and counts at the start of its day. */
const TIME_OF_ADJUSTMENT = `coalesce(time, date::timestamp at time zone 'UTC') as time`;

const adjust = `
-- Records adjustments and counts them in the rollups of days, once per id.
-- $1 source   $2 json array of the adjustments, of one merchant and one day
-- Returns one row: the ids of those that were new, and whether months and years have their day and lack them.
with inserted as (
  insert into usage_adjustments (
    ${ADJUSTMENT})
  select
    ${ADJUSTMENT}
  ${fromAdjustments('$2')}
  order by merchant_id, id
  on conflict (merchant_id, id) do nothing
  returning
    merchant_id, id, date, ${TIME_OF_ADJUSTMENT}, ${list}, metrics,
    ${rolledDimensions.join(',\n    ')}
),
${counted},
${addToDays}
select
  coalesce((select array_agg(id) from inserted), '{}') as inserted,
  (select count(*) from groups where ${isRolledUp}) as rolled_up,
  (select count from told) as told`;

const summedBy = (keys, from, where) => `(
  select
    ${keys.join(', ')},
    ${numericSums}
  from ${from}${where && `\n  where ${where}`}
  group by ${numbers(keys)}
  having ${someSum.replaceAll('units_sum', 'sum')}
)`;
const groupsOf = (from, where = '') =>
  `groups as materialized ${summedBy(['merchant_id', 'date', ...DIMENSIONS], from, where)}`;

const adjustPeriods = `
-- Adds adjustments that were recorded now, of a day that is rolled up, to the rollups of months and years.
-- $1 json array of the adjustments
with adjustment as (
  select
    merchant_id, date, ${list},
    ${rolledDimensions.join(',\n    ')}
  ${fromAdjustments('$1')}
),
${groupsOf('adjustment')},
${addLateToPeriods}
select count(*) as groups from groups`;

/** Re-ratings, as rows of `usage_priced`. */
const reratings = (where) => `
select
  merchant_id, date,
  ${rolledDimensions.join(',\n  ')},
  rerated_size, ${PRICED_MEASURES.map((name) => (name === 'priced_cost' ? 'cost' : '0')).join(', ')}, 1
from usage_adjustments
where ${where} and rerated_size is not null`;

const countPriced = `
-- Adds re-ratings that this transaction has just recorded to what Tally priced, and takes events that it voids out of it.
-- $1 merchant   $2 ids of the adjustments
insert into usage_priced as old (
  ${PRICED_KEYS.join(', ')},
  ${PRICED_AMOUNTS.join(', ')})
select
  ${PRICED_KEYS.join(', ')},
  ${PRICED_MEASURES.map((name) => `units_sum(${name})`).join(', ')}, sum(reratings)
from (
  ${indent(reratings('merchant_id = $1 and id = any($2::text[])'))}
  union all
  select
    event.merchant_id, event.date,
    ${DIMENSIONS.map((name, bit) => `${rolled(name, bit, 'event.')} as ${name}`).join(',\n    ')},
    call_size, -1, ${PRICED_PARTS.map((name) => `-${name}`).join(', ')}, -event.cost, 0
  from usage_adjustments as void
  join usage_events as event
    on event.date = void.date and event.merchant_id = void.merchant_id and event.id = void.void_of
  cross join lateral ${partsOf('event.')}
  where void.merchant_id = $1 and void.id = any($2::text[]) and event.price_version is not null
) as changed (${PRICED_KEYS.join(', ')}, ${PRICED_AMOUNTS.join(', ')})
group by ${numbers(PRICED_KEYS)}
order by ${numbers(PRICED_KEYS)}
on conflict (${PRICED_KEYS.join(', ')}) do update set
  ${PRICED_AMOUNTS.map((name) => `${name} = old.${name} + excluded.${name}`).join(',\n  ')}`;

const pricedSums = `
-- What Tally priced, summed over users and API keys: by merchant, day, model, provider and size of calls.
-- $1 first day   $2 last day   $3 merchants, or null for all   $4 how many at most   $5 providers, or null for all
select cells.*, exists (select from usage_closed_days as closed where closed.date = cells.date) as is_closed
from (
  select
    merchant_id, date, model, provider, call_size, count(*)::int as rows,
    ${PRICED_MEASURES.map((name) => `sum(${name}) as ${name}`).join(', ')}
  from usage_priced
  where date between $1::date and $2::date and ($3::text[] is null or merchant_id = any($3))
    and ($5::text[] is null or provider = any($5))
  group by 1, 2, 3, 4, 5
  order by 1, 2, 3, 4, 5
  limit $4
) as cells`;

const FILTERED = ['merchant_id', ...DIMENSIONS];
const pricedWindows = `
-- Sums of one measure of what Tally priced, by windows of UTC days and dimensions; windows and groups without any left out.
-- $1 the measure   $2 the beginnings of the windows   $3 the end of the last one   $4 columns to group by
-- ${FILTERED.map((name, index) => `$${index + 5} ${name}`).join('   ')}: values of each, or null for all   $${FILTERED.length + 5} how many at most
select slot, keys, sum(units) as units
from (
  select
    width_bucket(date, $2::date[]) - 1 as slot,
    array_remove(array[${FILTERED.map((name) => `case when '${name}' = any($4::text[]) then ${name} end`).join(', ')}], null) as keys,
    case $1::text ${PRICED_MEASURES.map((name) => `when '${name}' then ${name}`).join(' ')} end as units
  from usage_priced
  where date >= ($2::date[])[1] and date < $3::date
    ${FILTERED.map((name, index) => `and ($${index + 5}::text[] is null or ${name} = any($${index + 5}))`).join('\n    ')}
) as counted
group by 1, 2
having sum(units) <> 0
order by 1, 2
limit $${FILTERED.length + 5}`;

/** Whole numbers of times that twice \`per\` fits, towards 0. */
const QUOTIENTS = {
  bigint: (sum) => `(${sum}) / (2 * per)`,
  numeric: (sum) => `div(${sum}, 2 * per)`,
};

/** Rows of \`usage_priced\` with their cost by given rates: what cannot be told from a rounding stays as it is. */
const rerated = (type) => `cells as (
  select *
  from unnest(
    $1::text[], $2::date[], $3::text[], $4::text[], $5::smallint[],
    ${PRICED_PARTS.map((_, index) => `$${index + 6}::${type}[]`).join(', ')}, $${PRICED_PARTS.length + 6}::${type}[]
  ) as cell (
    merchant_id, date, model, provider, call_size,
    ${PRICED_PARTS.map((name) => name.replace('priced_', 'rate_')).join(', ')}, per)
),
computed as (
  select
    priced.*, per,
    ${QUOTIENTS[type](`2 * (
      ${PRICED_PARTS.map((name) => `${name} * ${name.replace('priced_', 'rate_')}`).join('\n      + ')}
    ) + per`)} as cost
  from cells
  join usage_priced as priced using (merchant_id, date, model, provider, call_size)
  -- Else each statement would read the whole table.
  where priced.merchant_id = any($1) and priced.date between (select min(date) from cells) and (select max(date) from cells)
),
rerated as (
  select
    *, priced_cost as old,
    case when per > 1 and 2 * abs(cost - priced_cost) <= priced_events then priced_cost else cost end as new
  from computed
)`;
const ratesOfCells = `-- $1 merchants, $2 days, $3 models, $4 providers and $5 sizes of cells, one element each
-- $6 to $${PRICED_PARTS.length + 5} nano-USD of a unit of each class, times $${PRICED_PARTS.length + 6}
-- A cost is rounded once for a row, half away from zero. The cost before was rounded for each event: a difference that small
-- is none.`;
const sizeOf = (type) =>
  type === 'bigint'
    ? '-- In 64 bits, which takes a quarter of the time of rerate-*-large.sql; larger numbers are an error.'
    : '-- For cells of which 64 bits may be too few.';
const rerateSums = (type) => `
-- What Tally priced by other rates, summed over users and API keys.
${ratesOfCells}
${sizeOf(type)}
with ${rerated(type)}
select
  merchant_id, date, model, provider, sum(priced_events) as events, sum(old) as old, sum(new) as new,
  count(*) filter (where new <> old)::int as different
from rerated
group by 1, 2, 3, 4`;
const rerateRows = (type) => `
-- Rows of what Tally priced whose cost is another by other rates.
${ratesOfCells}
${sizeOf(type)}
with ${rerated(type)}
select merchant_id, date, ${DIMENSIONS.join(', ')}, call_size, reratings, old, new
from rerated
where new <> old
order by ${PRICED_KEYS.join(', ')}`;

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
select merchant_id, date, changes, (
  select count(*)
  from usage_events as event
  where event.date = page.date and event.merchant_id = page.merchant_id) as events
from page
order by date, merchant_id`,
};

/** A filter of an explanation: $5 to $8 list the values of each dimension, null for all. */
const filterBy = (bit, condition) => `($${bit + 5}::text[] is null or ${condition(`any($${bit + 5})`)})`;
const isNamed = (name, bit) =>
  filterBy(bit, (values) => `${name} = ${values} or (folded & ${1 << bit} <> 0 and '(other)' = ${values})`);

/** Rows behind a number: $4 lists its metric types. */
const makesNumber = `(
    ${MEASURES.map((name) => `('${name}' = any($4::text[]) and ${name} <> 0)`).join('\n    or ')}
    or metrics ?| $4
  )
  ${DIMENSIONS.map((name, bit) => `and ${isNamed(name, bit)}`).join('\n  ')}`;

/** The measures among the metric types of a number, added up; `amount` adds the other metric types. */
const measured = (from = '') =>
  MEASURES.map((name) => `case when '${name}' = any($4::text[]) then ${from}${name} else 0 end`).join('\n+ ');
const amount = (from = '') => `${measured(from)}
+ coalesce((select sum(value::bigint) from jsonb_each_text(${from}metrics) where key = any($4)), 0)`;

const explained = {
  adjustments: `
-- Returns the newest adjustments of a merchant's days, each with the total number, in columns named like the entity's.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that they change
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 limit
select
  merchant_id as "merchantId", id, date, user_id as "userId", api_key as "apiKey", model, provider,
  requests, failed_requests as "failedRequests", prompt_tokens as "promptTokens",
  completion_tokens as "completionTokens", cost, metrics, reason, actor, created_at as "createdAt",
  count(*) over () as count
from usage_adjustments
where merchant_id = $1 and date between $2 and $3
  and ${makesNumber}
order by created_at desc, id desc
limit $9`,
  'explain-entries': `
-- Returns a page of the events behind a number, in order of day and id.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all
-- $9, $10 last date and id before the page   $11 limit
select
  date, merchant_id, id, time, user_id, api_key, model, provider, failed, calls,
  ${list}, metrics, properties, price_version
from usage_events
where merchant_id = $1 and date between $2 and $3 and (date, id) > ($9, $10)
  and ${makesNumber}
order by date, id
limit $11`,
  'explain-flushes': `
-- Returns the newest flushes behind a number, each with the total number.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 limit
select
  flush.id as flush_id, flush.source, flush.started_at,
  count(*) as entries, sum(event.calls) as calls, sum(part.amount) as value,
  count(*) over () as all_flushes
from usage_events as event
join usage_flushes as flush on flush.id = event.flush_id
cross join lateral (
  select
    ${indent(amount('event.'), 4)} as amount
) as part
where event.merchant_id = $1 and event.date between $2 and $3 and part.amount <> 0
  ${DIMENSIONS.map((name, bit) => `and ${isNamed(name, bit)}`).join('\n  ')}
group by 1, 2, 3
order by 1 desc
limit $9`,
  'explain-days': `
-- Returns the parts of a merchant's number, by day, and the stored number, at one moment.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 whether one of them is given
-- A filter also selects events counted under a value that it names: \`(other)\`. \`rolled_amount\` is the amount in rollups
-- for the filters; \`stored_amount\` is null if no rollup has the number.
with counted as (
  select
    'event' as kind, date, calls, ${DIMENSIONS.join(', ')}, folded,
    ${list}, metrics
  from usage_events
  where merchant_id = $1 and date between $2 and $3
  union all
  select
    'adjustment', date, 0, ${DIMENSIONS.join(', ')}, folded,
    ${list}, metrics
  from usage_adjustments
  where merchant_id = $1 and date between $2 and $3
),
parts as (
  select
    kind, date, calls, amount,
    ${DIMENSIONS.map((name, bit) => filterBy(bit, (values) => `${name} = ${values} or rolled_${name} = ${values}`)).join('\n      and ')} as is_named,
    ${DIMENSIONS.map((name, bit) => filterBy(bit, (values) => `rolled_${name} = ${values}`)).join('\n      and ')} as is_rolled
  from counted
  cross join lateral (
    select
      ${indent(amount(), 6)} as amount,
      ${DIMENSIONS.map((name, bit) => `${rolled(name, bit)} as rolled_${name}`).join(',\n      ')}
  ) as part
),
sums as (
  select
    date,
    count(*) filter (where kind = 'event' and is_named and amount <> 0) as entries,
    sum(calls) filter (where kind = 'event' and is_named and amount <> 0) as calls,
    sum(amount) filter (where kind = 'event' and is_named) as event_amount,
    sum(amount) filter (where kind = 'adjustment' and is_named) as adjustment_amount,
    sum(amount) filter (where is_rolled) as rolled_amount,
    null::numeric as closed_amount,
    null::numeric as stored_amount
  from parts
  group by date
  union all
  select date, 0, 0, 0, 0, 0, sum(metric_value), null
  from usage_journal_closings
  where merchant_id = $1 and date between $2 and $3 and metric_type = any($4)
  group by date
  union all
  select date, 0, 0, 0, 0, 0, null, sum(metric_value)
  from merchant_usage
  where not $9 and merchant_id = $1 and date between $2 and $3 and metric_type = any($4)
  group by date
  union all
  select
    date, 0, 0, 0, 0, 0, null,
    sum(
      ${indent(measured(), 6)}
    )
  from usage_daily
  where $9 and merchant_id = $1 and date between $2 and $3
    ${DIMENSIONS.map((name, bit) => `and ${filterBy(bit, (values) => `${name} = ${values}`)}`).join('\n    ')}
  group by date
)
select
  date,
  coalesce(sum(entries), 0) as entries,
  coalesce(sum(calls), 0) as calls,
  coalesce(sum(event_amount), 0) as event_amount,
  coalesce(sum(adjustment_amount), 0) as adjustment_amount,
  coalesce(sum(rolled_amount), 0) as rolled_amount,
  sum(closed_amount) as closed_amount,
  coalesce(sum(stored_amount), 0) as stored_amount,
  exists (select from usage_closed_days as closed where closed.date = sums.date) as is_closed
from sums
group by date
having bool_or(entries > 0) or sum(event_amount) <> 0 or sum(adjustment_amount) <> 0 or sum(rolled_amount) <> 0
  or sum(closed_amount) is not null or sum(stored_amount) <> 0
order by date`,
};

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
${addLateToPeriods}
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
${addSums(QUARTERS)},
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
having ${someSum.replaceAll('units_sum', sumOf(table))}`;
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

const rebuild = {
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
having ${someSum}`,
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
having ${someSum}`,
  'rebuild/merchant-usage': `
-- Rebuilds a merchant's rows of \`merchant_usage\` from its events and adjustments; for a closed day from its kept sums.
-- $1 merchant   $2 days
insert into merchant_usage (merchant_id, date, metric_type, metric_value)
select $1, date, metric_type, sum(metric_value)
from (
  select date, metric_type, metric_value
  from ${indent(counts('date'))}
  ${indent(eachMeasure)}
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
  ${indent(reratings('merchant_id = $1 and date = any($2::date[])'))}
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

const ofMerchants = '($1::text[] is null or merchant_id = any($1))';
const inRange = `${ofMerchants} and date between $2 and $3`;

const closeDay = `
-- Keeps the sums of a day's events before its partition is dropped. Returns the number of events and their last write.
-- $1 date
with sums as (
  select
    merchant_id, count(*) as entries,
    ${numericSums}
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
  ${indent(eachMeasure)}
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
  ${indent(eachMeasure)}
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
      ${numericSums}
    from usage_events
    where ${inRange}
    group by 1, 2
  ) as sums
  ${indent(eachMeasure)}
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
const first = (text) => `date_trunc('month', ${text}::date)::date`;
const next = (text) => `(date_trunc('month', ${text}::date) + interval '1 month')::date`;
const whole = `date >= ${first('$2')} and date < ${next('$3')}`;
const months = `month >= ${yearOf('$2::date')} and month < (${yearOf('$3::date')} + interval '1 year')::date`;
const some = (where) => `${ofMerchants} and ${where}`;
const everyone = (where) => `$1::text[] is null and ${where}`;

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
    ${numericSums}
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
  ${indent(eachMeasure)}
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

/** Moves the rows of one user to its pseudonym, which may have rows already: what came during the erasure. */
const moveUser = (table, period, { more = [], amounts = MEASURES } = {}) => {
  const keys = ['merchant_id', period, ...DIMENSIONS, ...more];
  return `
-- Moves a user's rows of \`${table}\` to the pseudonym.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
-- Returns the periods that changed.
with moved as (
  delete from ${table}
  where merchant_id = $1 and user_id = $2 and ${period} >= $4::date and ${period} < $5::date
  returning ${keys.map((key) => (key === 'user_id' ? '$3::text as user_id' : key)).join(', ')}, ${amounts.join(', ')}
),
added as (
  ${indent(addTo(table, keys, 'moved', { merged: true, returning: period, amounts }))}
)
select distinct ${period} as date
from added
order by 1`;
};

const eraseUser = {
  'erase/daily': moveUser('usage_daily', 'date'),
  'erase/priced': moveUser('usage_priced', 'date', { more: ['call_size'], amounts: PRICED_AMOUNTS }),
  'erase/monthly': moveUser('usage_monthly', 'month'),
  'erase/quarter-months': moveUser('usage_quarter_months', 'quarter_month'),
  'erase/yearly': moveUser('usage_yearly', 'year'),
  'erase/platform-users': `
-- Moves a merchant's share of a user in the rollup of all merchants to the pseudonym, before \`usage_monthly\` is moved.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
with own as (
  select month, ${numericSums}
  from usage_monthly
  where merchant_id = $1 and user_id = $2 and month >= $4::date and month < $5::date
  group by month
),
moved as (
  select month, user_id, ${MEASURES.map((name) => `sign * ${name} as ${name}`).join(', ')}
  from own
  cross join (values ($2::text, -1), ($3::text, 1)) as side (user_id, sign)
)
${addTo('usage_platform_users', PLATFORM.usage_platform_users, 'moved', { merged: true }).trim()}`,
  ...Object.fromEntries(
    ['daily', 'weekly', 'monthly'].map((grain) => [
      `erase/${grain}-metrics`,
      `
-- Renames a user in \`${grain}_metrics\`; an existing row of the pseudonym is newer, and stays.
-- $1 merchant   $2 user   $3 pseudonym
with known as (
  select period_start, metric_type
  from ${grain}_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $3
),
removed as (
  delete from ${grain}_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $2
    and (period_start, metric_type) in (select period_start, metric_type from known)
)
update ${grain}_metrics
set entity_id = $3
where merchant_id = $1 and entity_type = 'user' and entity_id = $2
  and (period_start, metric_type) not in (select period_start, metric_type from known)`,
    ]),
  ),
};

/** Breaks long lines after a comma or before an `or`. */
function wrapped(line, indent = line.search(/\S/) + 2) {
  if (line.length <= MAX_LINE || line.startsWith('--')) return line;
  const start = line.search(/\S/);
  const comma = line.lastIndexOf(', ', MAX_LINE - 1) + 1;
  const or = line.lastIndexOf(' or ', MAX_LINE - 1);
  const at = Math.max(comma, or);
  if (at <= start) return line;
  return `${line.slice(0, at)}\n${wrapped(`${' '.repeat(indent)}${line.slice(at + 1)}`, indent)}`;
}
const MAX_LINE = 120;

/** Every generated file, by its name. */
export const files = () =>
  Object.fromEntries(
    Object.entries({
      append,
      conflicts,
      adjust,
      'adjust-periods': adjustPeriods,
      'count-priced-adjustments': countPriced,
      'priced-sums': pricedSums,
      'priced-windows': pricedWindows,
      'rerate-sums': rerateSums('bigint'),
      'rerate-sums-large': rerateSums('numeric'),
      'rerate-rows': rerateRows('bigint'),
      'rerate-rows-large': rerateRows('numeric'),
      'take-flushes': takeFlushes('derived_at is null'),
      'take-flushes-for-meters': takeFlushes('metered is null'),
      derive,
      'derive-periods': derivePeriods,
      'roll-up': rollUp,
      'build-quarter-months': buildQuarters,
      'roll-up-platform': rollUpPlatform,
      ...unchecked,
      ...explained,
      ...rebuild,
      ...eraseUser,
      'close-day': closeDay,
      books,
      'period-books': periodBooks,
      'priced-books': pricedBooks,
    }).map(([name, text]) => [
      `${name}.sql`,
      `${text
        .trim()
        .split('\n')
        .map((line) => wrapped(line))
        .join('\n')}\n`,
    ]),
  );

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  for (const [name, text] of Object.entries(files())) await writeFile(new URL(name, import.meta.url), text);
