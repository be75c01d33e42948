-- Returns the sums of a snapshot by key, as text, so that no number passes a float. Reads all three shapes of a group:
-- { totalRequests, tokens: { total, prompt, completion }, cost }, { totalRequests, totalTokens, cost } and
-- { totalRequests, totalTokens, promptTokens, completionTokens, totalCost }.
-- $1 date
select
  kind, key,
  coalesce(value ->> 'totalRequests', '0') as requests,
  coalesce(value #>> '{tokens,total}', value ->> 'totalTokens', '0') as total_tokens,
  coalesce(value #>> '{tokens,prompt}', value ->> 'promptTokens') as prompt_tokens,
  coalesce(value #>> '{tokens,completion}', value ->> 'completionTokens') as completion_tokens,
  coalesce(value ->> 'cost', value ->> 'totalCost', '0') as cost
from daily_usage_cache
cross join lateral (values
  ('user', aggregated_by_user), ('model', aggregated_by_model), ('provider', aggregated_by_provider)
) as aggregated (kind, document)
cross join lateral jsonb_each(coalesce(document, '{}'))
where date = $1
order by kind, key collate "C"
