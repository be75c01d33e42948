-- Sums unresolved dead letters by merchant, day and metric type, without those that were counted themselves: their
-- identity
-- has no journal row, or one of another origin.
-- $1 merchants   $2 first date   $3 last date
select letter.merchant_id, letter.date, amount.metric_type, sum(amount.units) as metric_value
from usage_dead_letters as letter
cross join lateral (
  select metric_type, (letter.line ->> metric_type)::numeric as units
  from unnest(array['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost']) as metric_type
  union all
  select key, value::numeric
  from jsonb_each_text(letter.line -> 'metrics')
) as amount
where letter.merchant_id = any($1::text[]) and letter.date between $2 and $3 and letter.resolved_at is null
  and amount.units <> 0
  and not exists (
    select from usage_events as event
    where event.merchant_id = letter.merchant_id and event.date = letter.date and event.id = letter.entry_id
      and event.origin = coalesce(letter.line ->> 'origin', 'letter:' || letter.id)
  )
group by 1, 2, 3
