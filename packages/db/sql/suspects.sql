-- Returns events that may explain a difference between the journal and the daily sums: those of unknown flushes, and
-- those in whose dimensions journal and sums differ.
-- $1 merchant   $2 date   $3 limit
with adjusted as (
  select
    user_id, api_key, model, provider,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
    sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from (
    select user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
    from usage_events where merchant_id = $1 and date = $2
    union all
    select user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
    from usage_adjustments where merchant_id = $1 and date = $2
    union all
    select user_id, api_key, model, provider, -requests, -failed_requests, -prompt_tokens, -completion_tokens, -cost
    from usage_daily where merchant_id = $1 and date = $2
  ) as differences
  group by 1, 2, 3, 4
),
differing as (
  select user_id, api_key, model, provider
  from adjusted
  where (requests, failed_requests, prompt_tokens, completion_tokens, cost) is distinct from (0, 0, 0, 0, 0)
)
select id, 'in the journal, but of no flush' as why
from usage_events
where merchant_id = $1 and date = $2 and flush_id not in (select id from usage_flushes)
union all
select id, 'of dimensions whose sums differ'
from usage_events
where merchant_id = $1 and date = $2 and (user_id, api_key, model, provider) in (select * from differing)
order by 2, 1
limit $3
