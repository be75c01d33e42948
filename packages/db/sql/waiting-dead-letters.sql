-- Sums unresolved dead letters by merchant, day and metric type, without those that were counted themselves: their
-- identity has no journal row, or one of another origin.
-- $1 merchants   $2 first date   $3 last date
with letters as materialized (
  select id, merchant_id, date, entry_id, line, coalesce(line ->> 'origin', 'letter:' || id) as origin
  from usage_dead_letters
  where merchant_id = any($1::text[]) and date between $2 and $3 and resolved_at is null
),
counted as materialized (
  select letter.id
  from letters as letter
  join usage_events as event
    on event.merchant_id = letter.merchant_id and event.date = letter.date and event.id = letter.entry_id
  where event.origin = letter.origin
)
select letter.merchant_id, letter.date, amount.metric_type, sum(amount.units) as metric_value
from letters as letter
cross join lateral (
  select metric_type, (letter.line ->> metric_type)::numeric as units
  from unnest(array['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost']) as metric_type
  union all
  select key, value::numeric
  from jsonb_each_text(letter.line -> 'metrics')
) as amount
where amount.units <> 0 and letter.id not in (select id from counted)
group by 1, 2, 3
