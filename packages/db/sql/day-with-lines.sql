-- One merchant's day as Postgres knows it at one moment: its sums, its dead letters, and which of some lines are counted
-- by themselves (see counted-lines.sql).
-- $1 merchant   $2 date   $3 ids of the lines   $4 their origins   $5 the beginning of origins from old streams
-- Returns rows of three kinds: a metric type with its sum, a position counted from 0, a dead letter's id and line.
select metric_type, metric_value, null::int as position, null::bigint as id, null::jsonb as line
from merchant_usage
where merchant_id = $1 and date = $2
union all
select null, null, (ordinality - 1)::int, null, null
from unnest($3::text[], $4::text[]) with ordinality as line (id, origin, ordinality)
where exists (
  select from usage_events as event
  where event.date = $2 and event.merchant_id = $1 and event.id = line.id
    and case when event.origin is null then starts_with(line.origin, $5) else event.origin = line.origin end
)
union all
select null, null, null, id, line
from usage_dead_letters
where merchant_id = $1 and date = $2 and resolved_at is null
