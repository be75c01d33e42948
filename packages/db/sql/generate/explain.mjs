import { DIMENSIONS, MEASURES } from '@tally/contracts';
import { indent, list, rolled } from './columns.mjs';

// Statements that trace a number to its events.

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

export const statements = {
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
