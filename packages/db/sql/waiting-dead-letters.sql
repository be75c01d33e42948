-- Sums of a merchant's day by metric type over its unresolved dead letters that the journal does not have.
-- $1 merchant   $2 date   $3 entry ids that are left out
select amount.metric_type, sum(amount.units) as units
from usage_dead_letters as letter
cross join lateral (
  select metric_type, (letter.line ->> metric_type)::numeric as units
  from unnest(array['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost']) as metric_type
  union all
  select key, value::numeric
  from jsonb_each_text(letter.line -> 'metrics')
) as amount
where letter.merchant_id = $1 and letter.date = $2 and letter.resolved_at is null
  and letter.entry_id <> all($3::text[])
  and amount.units <> 0
  and not exists (
    select from usage_events as event
    where event.merchant_id = letter.merchant_id and event.date = letter.date and event.id = letter.entry_id
  )
group by amount.metric_type
