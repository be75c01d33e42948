-- Returns models with events without a known price, most events first.
-- $1 first day   $2 last day   $3 merchants, or null for all   $4 limit
select
  merchant_id, provider, model, count(*) as events, sum(prompt_tokens) as prompt_tokens,
  sum(completion_tokens) as completion_tokens, min(time) as first_time, max(time) as last_time
from usage_events
where date between $1::date and $2::date and price_version = 0 and ($3::text[] is null or merchant_id = any($3))
group by 1, 2, 3
order by events desc, 1, 2, 3
limit $4
