-- Returns the newest flushes behind a number, each with the total number.
-- $1 merchant   $2 first date   $3 last date   $4 metric types that make it
-- $5 users   $6 API keys   $7 models   $8 providers, each null for all   $9 limit
select
  flush.id as flush_id, flush.source, flush.started_at,
  count(*) as entries, sum(event.calls) as calls, sum(part.amount) as value,
  count(*) over () as all_flushes
from usage_events as event
join usage_flushes as flush on flush.id = event.flush_id
cross join lateral (
  select
    case when 'requests' = any($4::text[]) then event.requests else 0 end
    + case when 'failed_requests' = any($4::text[]) then event.failed_requests else 0 end
    + case when 'prompt_tokens' = any($4::text[]) then event.prompt_tokens else 0 end
    + case when 'completion_tokens' = any($4::text[]) then event.completion_tokens else 0 end
    + case when 'cost' = any($4::text[]) then event.cost else 0 end
    + coalesce((select sum(value::bigint) from jsonb_each_text(event.metrics) where key = any($4)), 0) as amount
) as part
where event.merchant_id = $1 and event.date between $2 and $3 and part.amount <> 0
  and ($5::text[] is null or user_id = any($5) or (folded & 1 <> 0 and '(other)' = any($5)))
  and ($6::text[] is null or api_key = any($6) or (folded & 2 <> 0 and '(other)' = any($6)))
  and ($7::text[] is null or model = any($7) or (folded & 4 <> 0 and '(other)' = any($7)))
  and ($8::text[] is null or provider = any($8) or (folded & 8 <> 0 and '(other)' = any($8)))
group by 1, 2, 3
order by 1 desc
limit $9
