-- Moves a user's rows of `usage_quarter_months` to the pseudonym.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
-- Returns the periods that changed.
with moved as (
  delete from usage_quarter_months
  where merchant_id = $1 and user_id = $2 and quarter_month >= $4::date and quarter_month < $5::date
  returning merchant_id, quarter_month, $3::text as user_id, api_key, model, provider, requests, failed_requests,
    prompt_tokens, completion_tokens, cost
),
added as (
  insert into usage_quarter_months as old (merchant_id, quarter_month, user_id, api_key, model, provider, requests,
    failed_requests, prompt_tokens, completion_tokens, cost)
  select
    merchant_id, quarter_month, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from moved
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, quarter_month, user_id, api_key, model, provider) do update set
    requests = old.requests + excluded.requests,
    failed_requests = old.failed_requests + excluded.failed_requests,
    prompt_tokens = old.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = old.completion_tokens + excluded.completion_tokens,
    cost = old.cost + excluded.cost
  returning quarter_month
)
select distinct quarter_month as date
from added
order by 1
