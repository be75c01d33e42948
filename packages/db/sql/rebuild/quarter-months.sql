-- Rebuilds a merchant's rows of `usage_quarter_months` from the days of complete quarters in `usage_daily`, without what is not derived yet.
-- $1 merchant   $2 first day of the month
insert into usage_quarter_months (
  merchant_id, quarter_month, user_id, api_key, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, usage_quarter_month(date), user_id, api_key, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from (
  select date, user_id, api_key, model, provider, requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where merchant_id = $1 and date >= $2::date and date < ($2::date + interval '1 month')::date and (usage_quarter_month(date), merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)
  union all
  select date, user_id, api_key, model, provider, -requests as requests, -failed_requests as failed_requests,
    -prompt_tokens as prompt_tokens, -completion_tokens as completion_tokens, -cost as cost
  from usage_pending
  where merchant_id = $1 and date >= $2::date and date < ($2::date + interval '1 month')::date and (usage_quarter_month(date), merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)
) as derived
group by 1, 2, 3, 4, 5, 6
having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
  or sum(cost) <> 0
