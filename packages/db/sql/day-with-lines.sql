-- Returns one merchant's day in Postgres at one moment: its sums, those of its dead letters (see
-- waiting-dead-letters.sql),
-- and the lines that were counted themselves (see counted-lines.sql).
-- $1 merchant   $2 date   $3 ids of the lines   $4 their origins   $5 prefix of origins from old streams
-- Returns rows of two kinds: a metric type with a sum (a type may come twice), and a position counted from 0.
select metric_type, metric_value, null::int as position
from merchant_usage
where merchant_id = $1 and date = $2
union all
select amount.metric_type, amount.units::bigint, null
from usage_dead_letters as letter
cross join lateral (
  select metric_type, letter.line ->> metric_type as units
  from unnest(array['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost']) as metric_type
  union all
  select key, value
  from jsonb_each_text(letter.line -> 'metrics')
) as amount
where letter.merchant_id = $1 and letter.date = $2 and letter.resolved_at is null and amount.units is not null
  and not exists (
    select from usage_events as event
    where event.merchant_id = $1 and event.date = $2 and event.id = letter.entry_id
      and event.origin = coalesce(letter.line ->> 'origin', 'letter:' || letter.id)
  )
union all
select null, null, (ordinality - 1)::int
from unnest($3::text[], $4::text[]) with ordinality as line (id, origin, ordinality)
where exists (
  select from usage_events as event
  where event.date = $2 and event.merchant_id = $1 and event.id = line.id
    and case when event.origin is null then starts_with(line.origin, $5) else event.origin = line.origin end
)
