-- Rebuilds a merchant's rows of `usage_monthly_models` from rolled-up days of `usage_daily_models`.
-- $1 merchant   $2 first day of the month
insert into usage_monthly_models (
  merchant_id, month, model, provider,
  requests, failed_requests, prompt_tokens, completion_tokens, cost)
select
  $1, date_trunc('month', date)::date, model, provider,
  sum(requests), sum(failed_requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
from usage_daily_models
where merchant_id = $1 and date >= $2::date and date < ($2::date + interval '1 month')::date and (date,
  merchant_id) <= (select date, merchant_id from usage_rolled_up)
group by 1, 2, 3, 4
having sum(requests) <> 0 or sum(failed_requests) <> 0 or sum(prompt_tokens) <> 0 or sum(completion_tokens) <> 0
  or sum(cost) <> 0
