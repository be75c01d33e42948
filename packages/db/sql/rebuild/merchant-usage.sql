-- Rebuilds a merchant's rows of `merchant_usage` from its events and adjustments; for a closed day from its kept sums.
-- $1 merchant   $2 days
insert into merchant_usage (merchant_id, date, metric_type, metric_value)
select $1, date, metric_type, sum(metric_value)
from (
  select date, metric_type, metric_value
  from (
    select date, requests, failed_requests, prompt_tokens, completion_tokens, cost
    from usage_counted_events
    where merchant_id = $1 and date = any($2::date[])
    union all
    select date, requests, failed_requests, prompt_tokens, completion_tokens, cost
    from usage_counted_adjustments
    where merchant_id = $1 and date = any($2::date[])
  ) as counted
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where metric_value <> 0
  union all
  select date, key, value::bigint
  from (
    select date, metrics from usage_events
    where merchant_id = $1 and date = any($2::date[]) and metrics is not null
    union all
    select date, metrics from usage_adjustments
    where merchant_id = $1 and date = any($2::date[]) and metrics is not null
  ) as counted
  cross join lateral jsonb_each_text(metrics)
  union all
  select date, metric_type, metric_value
  from usage_journal_closings
  where merchant_id = $1 and date = any($2::date[])
) as metrics
group by 1, 2, 3
