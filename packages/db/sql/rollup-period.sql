-- Computes one period for some merchants and for the platform; rollups-store.ts inserts the rows.
-- $1 first day   $2 last day   $3 first day of the previous period   $4 merchant ids, null for all
-- $5 ISO weekday that weeks begin with if the weeks inside are kept, else null
-- Merchants and the platform come from merchant_usage (every metric type); users, models and providers from
-- usage_daily (the measures). piece: the week, the whole period, or -infinity for the previous period.
with days as (
  select
    merchant_id,
    coalesce(nullif(user_id, ''), 'unknown') as user_id,
    coalesce(nullif(model, ''), 'unknown') as model,
    coalesce(nullif(provider, ''), 'unknown') as provider,
    case
      when date < $1::date then '-infinity'::date
      when $5::int is null then $1::date
      else date - (extract(isodow from date)::int - $5::int + 7) % 7
    end as piece,
    requests, failed_requests, prompt_tokens, completion_tokens, cost
  from usage_daily
  where date between $3::date and $2::date
    and ($4::text[] is null or merchant_id = any($4))
),
entities as (
  select
    merchant_id,
    case when grouping(user_id) = 0 then 'user' when grouping(model) = 0 then 'model' else 'provider' end as entity_type,
    coalesce(user_id, model, provider) as entity_id,
    piece,
    sum(requests) as requests, sum(failed_requests) as failed_requests,
    sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens, sum(cost) as cost
  from days
  group by grouping sets ((merchant_id, piece, user_id), (merchant_id, piece, model), (merchant_id, piece, provider))
),
merchant_days as (
  select
    merchant_id, metric_type, metric_value,
    case
      when date < $1::date then '-infinity'::date
      when $5::int is null then $1::date
      else date - (extract(isodow from date)::int - $5::int + 7) % 7
    end as piece
  from merchant_usage
  where date between $3::date and $2::date
),
merchants as (
  select
    case when grouping(merchant_id) = 0 then merchant_id else '' end as merchant_id,
    case when grouping(merchant_id) = 0 then 'merchant' else 'platform' end as entity_type,
    case when grouping(merchant_id) = 0 then merchant_id else 'platform' end as entity_id,
    piece, metric_type, sum(metric_value) as value
  from merchant_days
  group by grouping sets ((merchant_id, piece, metric_type), (piece, metric_type))
),
pieces as (
  select merchant_id, entity_type, entity_id, piece, measure.metric_type, measure.value
  from entities
  cross join lateral (values
    ('requests', requests), ('failed_requests', failed_requests), ('prompt_tokens', prompt_tokens),
    ('completion_tokens', completion_tokens), ('total_tokens', prompt_tokens + completion_tokens), ('cost', cost)
  ) as measure (metric_type, value)
  union all
  select merchant_id, entity_type, entity_id, piece, each.metric_type, value
  from merchants
  cross join lateral (
    select metric_type
    union all
    select 'total_tokens' where metric_type in ('prompt_tokens', 'completion_tokens')
  ) as each
  where merchant_id = '' or $4::text[] is null or merchant_id = any($4)
),
summed as (
  select merchant_id, entity_type, entity_id, metric_type, piece, sum(value) as value
  from pieces
  group by 1, 2, 3, 4, 5
),
periods as (
  select
    merchant_id, entity_type, entity_id, metric_type,
    sum(value) filter (where piece > '-infinity') as value,
    nullif(sum(value) filter (where piece = '-infinity'), 0) as previous,
    jsonb_agg(jsonb_build_object(
      'startDate', greatest(piece, $1::date), 'endDate', least(piece + 6, $2::date), 'value', value::text
    ) order by piece) filter (where piece > '-infinity' and value <> 0 and $5::int is not null) as breakdown
  from summed
  group by 1, 2, 3, 4
)
select
  merchant_id, entity_type, entity_id, metric_type, $1::date, $2::date, value,
  -- Rounded once, half away from zero, with whole numbers: numeric division first rounds to 16 digits.
  case metric_type
    when 'cost' then sign(value) * div(2 * abs(value) + days, 2 * days)
    else sign(value) * div(2000000 * abs(value) + days, 2 * days) * 0.000001
  end,
  previous,
  sign(value - previous) * div(20000 * abs(value - previous) + abs(previous), 2 * abs(previous)) * 0.01,
  breakdown
from periods
cross join (select ($2::date - $1::date + 1)::numeric as days) as period
where value <> 0
