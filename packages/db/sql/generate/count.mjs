import { DIMENSIONS, MEASURES, PRICED_MEASURES, PRICED_PARTS } from '@tally/contracts';
import {
  eachMeasure,
  indent,
  list,
  namedSums,
  numbers,
  PRICED_KEYS,
  partsOf,
  RERATING,
  rolledDimensions,
  someAmount,
  someSum,
} from './columns.mjs';
import { addLateToPeriods, addTo, addToDays, FINEST, isRolledUp, PLACE, PLATFORM, sumsFor } from './rollups.mjs';

// Statements that count events and adjustments.

/** Follows `inserted`, the counted rows with these measures: adds them to the finest rollups and sets every mark. */
const counted = (measures) => `groups as materialized (
  select
    merchant_id, date, ${DIMENSIONS.join(', ')},
    ${namedSums(measures)}
  from inserted
  group by 1, 2, 3, 4, 5, 6
  having ${someSum(measures)}
),
added_to_usage_daily as (
  ${indent(addTo('usage_daily', FINEST.usage_daily, 'groups', { merged: true, amounts: measures }))}
),
added_to_usage_quarter_hours as (
  ${indent(addTo('usage_quarter_hours', FINEST.usage_quarter_hours, 'inserted', { where: someAmount(measures), amounts: measures }))}
),
by_merchant_day as materialized (
  select
    merchant_id, date, count(*) as entries,
    ${namedSums(measures)}
  from inserted
  group by 1, 2
),
metric_values as (
  select merchant_id, date, metric_type, metric_value
  from by_merchant_day
  ${indent(eachMeasure(measures))}
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
-- Returns one row: the flush, lines inserted, the days it changed, and the ways to find the budgets of its merchants.
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
${counted(MEASURES)},
${priced},
summed as (
  -- For readers of all merchants, until the flush is derived.
  insert into usage_flush_sums (flush_id, ${PLATFORM.usage_platform_daily.join(', ')}, ${list})
  select (select id from flush), ${PLATFORM.usage_platform_daily.join(', ')}, ${sumsFor('usage_flush_sums')}
  from groups
  group by 2, 3, 4
),
recorded as (
  -- A flush that counted nothing has nothing to derive.
  insert into usage_flushes (id, source, entries, inserted, merchants, first_date, last_date, derived_at, summed)
  overriding system value
  select
    (select id from flush), $1, cardinality($2), coalesce(sum(entries), 0), count(distinct merchant_id),
    min(date), max(date), case when count(*) = 0 then clock_timestamp() end, true
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
    select array_agg(distinct budget_way(merchant_id, user_id, api_key, team, model))
    from budgets
    where removed_at is null and (merchant_id = '' or merchant_id in (select merchant_id from by_merchant_day))
  ), '{}') as ways`;

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

/** Columns of `adjust.sql`, like those of `append.sql`. */
const ADJUSTMENT = [
  ['id', 'text'],
  ['date', 'date'],
  ...DIMENSIONS.map((name) => [name, 'text', `coalesce(${name}, '')`]),
  ...MEASURES.map((name) => [name, 'bigint', `coalesce(${name}, 0)`]),
  ['metrics', 'text', 'metrics::jsonb'],
  ['folded', 'smallint', 'nullif(folded, 0)'],
];
const adjustmentNames = ADJUSTMENT.map(([name]) => name).join(', ');

/** A void counts at the time of its event; any other adjustment has no time and counts at the start of its day. */
export const TIME_OF_ADJUSTMENT = `coalesce(time, date::timestamp at time zone 'UTC') as time`;

/** Follows `inserted`: counts adjustments of these measures in all rollups. */
const countedAdjustments = (measures) => `${counted(measures)},
${addToDays(measures)},
late as materialized (
  select *
  from groups
  where ${isRolledUp}
),
${addLateToPeriods('late', measures)}`;

const insertedIds = `select
  coalesce((
    select json_object_agg(date, ids) from (select date, json_agg(id) as ids from inserted group by date) as days
  ), '{}') as inserted,
  (select count from told) as told`;

const adjust = `
-- Records adjustments of one merchant and counts them in all rollups, once per id.
-- $1 source   $2 merchant   $3 reason   $4 actor   $5 time of the event that is taken back, else null
-- $6 to $${ADJUSTMENT.length + 5} one array per column with an element per adjustment; empty if none has a value
-- Returns one row: the ids of those that were new, by day.
-- What is added to months and years must not be rolled up meanwhile: see \`holdRolledUp\`.
with given as (
  select *
  from unnest(
    ${ADJUSTMENT.map(([, type], index) => `$${index + 6}::${type}[]`).join(', ')}
  ) as adjustment (
    ${adjustmentNames})
),
inserted as (
  insert into usage_adjustments (
    merchant_id, reason, actor, time, ${adjustmentNames})
  select
    $2, $3, $4, $5::timestamptz,
    ${ADJUSTMENT.map(([name, , value]) => value ?? name).join(',\n    ')}
  from given
  order by id
  on conflict (merchant_id, id) do nothing
  returning
    merchant_id, id, date, ${TIME_OF_ADJUSTMENT}, ${list}, metrics,
    ${rolledDimensions.join(',\n    ')}
),
${countedAdjustments(MEASURES)}
${insertedIds}`;

/** Identifies a row of a day among those of what Tally priced, whatever its dimensions contain. */
const rowDigest = `left(translate(encode(sha256(convert_to(
      '[' || concat_ws(',', ${DIMENSIONS.map((name) => `to_json(${name})`).join(', ')}, call_size) || ']', 'UTF8')), 'base64'), '+/', '-_'), 22)`;

const rerate = `
-- Records re-ratings of one merchant and counts them in all rollups and in what Tally priced, once per id. An id says
-- which re-rating of its row it is, so that two at once make it once.
-- $1 source   $2 merchant   $3 reason   $4 actor
-- $5 to $${RERATING.length + 4} one array per column with an element per re-rating
-- Returns one row: the ids of those that were new, by day.
-- Values of rows are admitted values or '(other)' already. What is added to months and years must not be rolled up
-- meanwhile: see \`holdRolledUp\`.
with given as (
  select
    'rerate:' || date || ':' || ${rowDigest} || ':' || reratings + 1 as id,
    date,
    -- During an erasure there are rows with the name of the user.
    case
      when exists (select from erased_users where merchant_id = $2) then coalesce((
        select pseudonym
        from erased_users as erased
        where erased.merchant_id = $2
          and digest = encode(sha256(convert_to($2 || chr(10) || user_id, 'UTF8')), 'hex')
      ), user_id)
      else user_id
    end as user_id,
    ${DIMENSIONS.filter((name) => name !== 'user_id').join(', ')}, call_size, difference
  from unnest(
    ${RERATING.map(([, type], index) => `$${index + 5}::${type}[]`).join(', ')}
  ) as rerating (
    ${RERATING.map(([name]) => name).join(', ')})
),
inserted as (
  insert into usage_adjustments (
    merchant_id, reason, actor, id, date, ${DIMENSIONS.join(', ')}, cost, rerated_size)
  select $2, $3, $4, id, date, ${DIMENSIONS.join(', ')}, difference, call_size
  from given
  order by id
  on conflict (merchant_id, id) do nothing
  returning
    merchant_id, id, date, ${TIME_OF_ADJUSTMENT}, cost, metrics, rerated_size, ${DIMENSIONS.join(', ')}
),
${countedAdjustments(['cost'])},
rerated as materialized (
  select
    merchant_id, date, ${DIMENSIONS.join(', ')}, rerated_size as call_size,
    units_sum(cost) as priced_cost, count(*) as reratings
  from inserted
  group by ${numbers(PRICED_KEYS)}
),
added_to_usage_priced as (
  ${indent(addTo('usage_priced', PRICED_KEYS, 'rerated', { merged: true, amounts: ['priced_cost', 'reratings'] }))}
)
${insertedIds}`;

export const statements = {
  append,
  conflicts,
  adjust,
  rerate,
};
