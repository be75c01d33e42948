-- Returns the parts of a merchant's number, by day, and the stored number, at one moment.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 whether one of them is given
-- A filter also selects events counted under a value that it names: `(other)`. `rolled_amount` is the amount in rollups
-- for the filters; `stored_amount` is null if no rollup has the number.
with counted as (
  select
    'event' as kind, date, calls, user_id, api_key, model, provider, folded,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics
  from usage_events
  where merchant_id = $1 and date between $2 and $3
  union all
  select
    'adjustment', date, 0, user_id, api_key, model, provider, folded,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics
  from usage_adjustments
  where merchant_id = $1 and date between $2 and $3
),
parts as (
  select
    kind, date, calls, amount,
    ($5::text[] is null or user_id = any($5) or rolled_user_id = any($5))
      and ($6::text[] is null or api_key = any($6) or rolled_api_key = any($6))
      and ($7::text[] is null or model = any($7) or rolled_model = any($7))
      and ($8::text[] is null or provider = any($8) or rolled_provider = any($8)) as is_named,
    ($5::text[] is null or rolled_user_id = any($5))
      and ($6::text[] is null or rolled_api_key = any($6))
      and ($7::text[] is null or rolled_model = any($7))
      and ($8::text[] is null or rolled_provider = any($8)) as is_rolled
  from counted
  cross join lateral (
    select
      case when 'requests' = any($4::text[]) then requests else 0 end
      + case when 'failed_requests' = any($4::text[]) then failed_requests else 0 end
      + case when 'prompt_tokens' = any($4::text[]) then prompt_tokens else 0 end
      + case when 'completion_tokens' = any($4::text[]) then completion_tokens else 0 end
      + case when 'cost' = any($4::text[]) then cost else 0 end
      + coalesce((select sum(value::bigint) from jsonb_each_text(metrics) where key = any($4)), 0) as amount,
      case when folded & 1 <> 0 then '(other)' else user_id end as rolled_user_id,
      case when folded & 2 <> 0 then '(other)' else api_key end as rolled_api_key,
      case when folded & 4 <> 0 then '(other)' else model end as rolled_model,
      case when folded & 8 <> 0 then '(other)' else provider end as rolled_provider
  ) as part
),
sums as (
  select
    date,
    count(*) filter (where kind = 'event' and is_named and amount <> 0) as entries,
    sum(calls) filter (where kind = 'event' and is_named and amount <> 0) as calls,
    sum(amount) filter (where kind = 'event' and is_named) as event_amount,
    sum(amount) filter (where kind = 'adjustment' and is_named) as adjustment_amount,
    sum(amount) filter (where is_rolled) as rolled_amount,
    null::numeric as closed_amount,
    null::numeric as stored_amount
  from parts
  group by date
  union all
  select date, 0, 0, 0, 0, 0, sum(metric_value), null
  from usage_journal_closings
  where merchant_id = $1 and date between $2 and $3 and metric_type = any($4)
  group by date
  union all
  select date, 0, 0, 0, 0, 0, null, sum(metric_value)
  from merchant_usage
  where not $9 and merchant_id = $1 and date between $2 and $3 and metric_type = any($4)
  group by date
  union all
  select
    date, 0, 0, 0, 0, 0, null,
    sum(
      case when 'requests' = any($4::text[]) then requests else 0 end
      + case when 'failed_requests' = any($4::text[]) then failed_requests else 0 end
      + case when 'prompt_tokens' = any($4::text[]) then prompt_tokens else 0 end
      + case when 'completion_tokens' = any($4::text[]) then completion_tokens else 0 end
      + case when 'cost' = any($4::text[]) then cost else 0 end
    )
  from usage_daily
  where $9 and merchant_id = $1 and date between $2 and $3
    and ($5::text[] is null or user_id = any($5))
    and ($6::text[] is null or api_key = any($6))
    and ($7::text[] is null or model = any($7))
    and ($8::text[] is null or provider = any($8))
  group by date
)
select
  date,
  coalesce(sum(entries), 0) as entries,
  coalesce(sum(calls), 0) as calls,
  coalesce(sum(event_amount), 0) as event_amount,
  coalesce(sum(adjustment_amount), 0) as adjustment_amount,
  coalesce(sum(rolled_amount), 0) as rolled_amount,
  sum(closed_amount) as closed_amount,
  coalesce(sum(stored_amount), 0) as stored_amount,
  exists (select from usage_closed_days as closed where closed.date = sums.date) as is_closed
from sums
group by date
having bool_or(entries > 0) or sum(event_amount) <> 0 or sum(adjustment_amount) <> 0 or sum(rolled_amount) <> 0
  or sum(closed_amount) is not null or sum(stored_amount) <> 0
order by date
