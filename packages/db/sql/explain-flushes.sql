-- The newest flushes that made a number, each beside the sums of all of them.
-- $1 merchant   $2 date   $3 metric types that make it   $4 how many at most
select
  flush.id as flush_id, flush.source, flush.started_at,
  count(*) as entries, sum(event.calls) as calls, sum(part.amount) as value,
  count(*) over () as all_flushes, sum(count(*)) over () as all_entries, sum(sum(event.calls)) over () as all_calls
from usage_events as event
join usage_flushes as flush on flush.id = event.flush_id
cross join lateral (
  select
    case when 'requests' = any($3::text[]) then event.requests else 0 end
    + case when 'failed_requests' = any($3) then event.failed_requests else 0 end
    + case when 'prompt_tokens' = any($3) then event.prompt_tokens else 0 end
    + case when 'completion_tokens' = any($3) then event.completion_tokens else 0 end
    + case when 'cost' = any($3) then event.cost else 0 end
    + coalesce((select sum(value::bigint) from jsonb_each_text(event.metrics) where key = any($3)), 0) as amount
) as part
where event.merchant_id = $1 and event.date = $2 and part.amount <> 0
group by 1, 2, 3
order by 1 desc
limit $4
