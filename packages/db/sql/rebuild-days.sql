-- Rebuilds the snapshots of some days from the rollups; a day without usage gets an empty one. Keeps snapshots imported
-- as flat sums (without a version), which cannot be made again.
-- $1 days   $2 cache status of each   $3 version of each, read before
-- Writes JSON text and parses it once: building the snapshots of jsonb objects took twice as long.
with wanted as materialized (
  select date, status, changes
  from unnest($1::date[], $2::text[], $3::numeric[]) as day (date, status, changes)
),
used as materialized (
  select merchant_id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where date = any($1::date[])
),
raw as materialized (
  -- In one order, so that a snapshot is the same wherever its rows were. Sorting takes 2 to 10 % more time.
  select date, json_agg(rows order by
      used.merchant_id collate "C", used.user_id collate "C", used.api_key collate "C", used.model collate "C",
      used.provider collate "C")::jsonb as document
  from used
  cross join lateral (
    select
      merchant_id as "merchantId", nullif(user_id, '') as "userId", nullif(api_key, '') as "apiKey",
      nullif(model, '') as model, nullif(provider, '') as provider,
      requests as "totalRequests", failed_requests as "failedRequests", prompt_tokens as "promptTokens",
      completion_tokens as "completionTokens", trim_scale(cost * 0.000000001) as cost
  ) as rows
  group by date
),
grouped as (
  select date, 'user' as kind, coalesce(nullif(user_id, ''), 'unknown') as key,
    sum(requests) as requests, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from used
  group by 1, 3
  union all
  -- A model of several providers on that day has one key per provider.
  select date, 'model', coalesce(nullif(model, ''), 'unknown')
      || case when count(*) over (partition by date, model) > 1 then '|' || coalesce(nullif(provider, ''), 'unknown') else '' end,
    sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from used
  group by date, model, provider
  union all
  select date, 'provider', coalesce(nullif(provider, ''), 'unknown'),
    sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
  from used
  group by 1, 3
),
documents as materialized (
  select date, kind, ('{' || string_agg(
    to_json(key)
      || ':{"totalRequests":' || requests
      || ',"tokens":{"total":' || prompt_tokens + completion_tokens
      || ',"prompt":' || prompt_tokens || ',"completion":' || completion_tokens
      || '},"cost":' || trim_scale(cost * 0.000000001) || '}',
    ','
  ) || '}')::jsonb as document
  from grouped
  group by date, kind
)
insert into daily_usage_cache (
  date, raw_data, aggregated_by_user, aggregated_by_model, aggregated_by_provider, cache_status, cached_at, changes)
select
  wanted.date,
  coalesce((select document from raw where raw.date = wanted.date), '[]'),
  coalesce((select document from documents where documents.date = wanted.date and kind = 'user'), '{}'),
  coalesce((select document from documents where documents.date = wanted.date and kind = 'model'), '{}'),
  coalesce((select document from documents where documents.date = wanted.date and kind = 'provider'), '{}'),
  wanted.status, now(), wanted.changes
from wanted
order by wanted.date
on conflict (date) do update set
  raw_data = excluded.raw_data,
  aggregated_by_user = excluded.aggregated_by_user,
  aggregated_by_model = excluded.aggregated_by_model,
  aggregated_by_provider = excluded.aggregated_by_provider,
  cache_status = excluded.cache_status,
  cached_at = excluded.cached_at,
  changes = excluded.changes
where daily_usage_cache.changes is not null
returning date
