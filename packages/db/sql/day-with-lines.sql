-- Returns one merchant's day in Postgres at one moment: its sums, those of its dead letters (see
-- waiting-dead-letters.sql), and the lines that were counted themselves (see counted-lines.sql).
-- $1 merchant   $2 date   $3 ids of the lines   $4 their origins   $5 prefix of origins from old streams
-- Returns rows of two kinds: a metric type with a sum (a type may come twice), and a position counted from 0.
with letters as materialized (
  select id, entry_id, line, coalesce(line ->> 'origin', 'letter:' || id) as origin
  from usage_dead_letters
  where merchant_id = $1 and date = $2 and resolved_at is null
),
counted as materialized (
  select letter.id
  from letters as letter
  join usage_events as event on event.merchant_id = $1 and event.date = $2 and event.id = letter.entry_id
  where event.origin = letter.origin
)
select metric_type, metric_value, null::int as position
from merchant_usage
where merchant_id = $1 and date = $2
union all
select amount.metric_type, amount.units::bigint, null
from letters as letter
cross join lateral (
  select metric_type, letter.line ->> metric_type as units
  from unnest(array['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost']) as metric_type
  union all
  select key, value
  from jsonb_each_text(letter.line -> 'metrics')
) as amount
where amount.units is not null and letter.id not in (select id from counted)
union all
select null, null, (ordinality - 1)::int
from unnest($3::text[], $4::text[]) with ordinality as line (id, origin, ordinality)
join usage_events as event on event.date = $2 and event.merchant_id = $1 and event.id = line.id
where case when event.origin is null then starts_with(line.origin, $5) else event.origin = line.origin end
