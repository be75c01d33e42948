-- Keeps the sums of a day's events before its partition is dropped. Returns the number of events and their last write.
-- $1 date
with sums as (
  select
    merchant_id, count(*) as entries,
    sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
      sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from usage_events
  where date = $1
  group by 1
),
others as (
  select merchant_id, key as metric_type, sum(value::bigint) as metric_value, count(*) as entries
  from usage_events
  cross join lateral jsonb_each_text(metrics)
  where date = $1 and metrics is not null
  group by 1, 2
),
kept as (
  insert into usage_journal_closings (merchant_id, date, metric_type, metric_value, entries)
  select merchant_id, $1, metric_type, metric_value, entries
  from sums
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
      ('completion_tokens', completion_tokens), ('cost', cost)
  ) as measure (metric_type, metric_value)
  where metric_value <> 0
  union all
  select merchant_id, $1, metric_type, metric_value, entries
  from others
),
kept_prices as (
  insert into usage_priced_closings (merchant_id, date, priced_events, priced_requests, priced_input_tokens,
    priced_cached_tokens, priced_cache_write_tokens, priced_output_tokens, priced_reasoning_tokens, priced_cost)
  select merchant_id, date, sum(priced_events), sum(priced_requests), sum(priced_input_tokens),
    sum(priced_cached_tokens), sum(priced_cache_write_tokens), sum(priced_output_tokens), sum(priced_reasoning_tokens),
    sum(priced_cost)
  from usage_priced_events
  where date = $1
  group by 1, 2
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_agg(merchant_id), array_agg($1::date)
  from sums
  having count(*) > 0
),
total as (
  select coalesce(sum(entries), 0) as entries from sums
),
last_write as (
  select max(started_at) as moment from usage_flushes where inserted > 0 and $1 between first_date and last_date
)
select total.entries::text as entries, last_write.moment::text as "lastWrite"
from total
cross join last_write
