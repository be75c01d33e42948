-- Records re-ratings of one merchant and counts them in all rollups and in what Tally priced, once per id. An id says
-- which re-rating of its row it is, so that two at once make it once.
-- $1 source   $2 merchant   $3 reason   $4 actor
-- $5 to $12 one array per column with an element per re-rating
-- Returns one row: the ids of those that were new, by day.
-- Values of rows are admitted values or '(other)' already. What is added to months and years must not be rolled up
-- meanwhile: see `holdRolledUp`.
with given as (
  select
    'rerate:' || date || ':' || left(translate(encode(sha256(convert_to(
      '[' || concat_ws(',', to_json(user_id), to_json(api_key), to_json(model), to_json(provider), call_size) || ']',
        'UTF8')), 'base64'), '+/', '-_'), 22) || ':' || reratings + 1 as id,
    date,
    -- During an erasure there are rows with the name of the user.
    case
      when exists (select from erased_users where merchant_id = $2) then coalesce((
        select pseudonym
        from erased_users as erased
        where erased.merchant_id = $2
          and digest = encode(sha256(convert_to($2 || chr(10) || user_id, 'UTF8')), 'hex')
      ), user_id)
      else user_id
    end as user_id,
    api_key, model, provider, call_size, difference
  from unnest(
    $5::date[], $6::text[], $7::text[], $8::text[], $9::text[], $10::smallint[], $11::integer[], $12::bigint[]
  ) as rerating (
    date, user_id, api_key, model, provider, call_size, reratings, difference)
),
inserted as (
  insert into usage_adjustments (
    merchant_id, reason, actor, id, date, user_id, api_key, model, provider, cost, rerated_size)
  select $2, $3, $4, id, date, user_id, api_key, model, provider, difference, call_size
  from given
  order by id
  on conflict (merchant_id, id) do nothing
  returning
    merchant_id, id, date, coalesce(time, date::timestamp at time zone 'UTC') as time, cost, metrics, rerated_size,
      user_id, api_key, model, provider
),
groups as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider,
    units_sum(cost) as cost
  from inserted
  group by 1, 2, 3, 4, 5, 6
  having units_sum(cost) <> 0
),
added_to_usage_daily as (
  insert into usage_daily as old (merchant_id, date, user_id, api_key, model, provider, cost)
  select
    merchant_id, date, user_id, api_key, model, provider,
    cost
  from groups
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, date, user_id, api_key, model, provider) do update set
    cost = old.cost + excluded.cost
),
added_to_usage_quarter_hours as (
  insert into usage_quarter_hours as old (merchant_id, bucket, model, provider, cost)
  select
    merchant_id, date_bin('15 minutes', time, '2000-01-01T00:00:00Z'), model, provider,
    units_sum(cost)
  from inserted
  where cost <> 0
  group by 1, 2, 3, 4
  order by 1, 2, 3, 4
  on conflict (merchant_id, bucket, model, provider) do update set
    cost = old.cost + excluded.cost
),
by_merchant_day as materialized (
  select
    merchant_id, date, count(*) as entries,
    units_sum(cost) as cost
  from inserted
  group by 1, 2
),
metric_values as (
  select merchant_id, date, metric_type, metric_value
  from by_merchant_day
  cross join lateral (values
    ('cost', cost)
  ) as measure (metric_type, metric_value)
  where metric_value <> 0
  union all
  select merchant_id, date, key, units_sum(value::bigint)
  from inserted
  cross join lateral jsonb_each_text(metrics)
  where metrics is not null
  group by 1, 2, 3
),
added_to_merchant_usage as (
  insert into merchant_usage as old (merchant_id, date, metric_type, metric_value)
  select merchant_id, date, metric_type, metric_value
  from metric_values
  order by 1, 2, 3
  on conflict (merchant_id, date, metric_type) do update set
    metric_value = old.metric_value + excluded.metric_value
),
touched as (
  -- Always an update: the lock on the row keeps the mark from being taken before this commits.
  insert into usage_touched_days as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  order by 1, 2
  on conflict (merchant_id, date) do update set touched_at = excluded.touched_at
),
changes as (
  insert into usage_changes as old (grain, period, merchant_id)
  select grain, period, merchant_id
  from (
    select 'day' as grain, date as period, merchant_id from by_merchant_day
    union
    select 'month', date_trunc('month', date)::date, merchant_id from by_merchant_day
  ) as changed
  order by 1, 2, 3
  on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
),
logged as (
  insert into usage_change_log (merchant_ids, dates)
  select array_agg(merchant_id), array_agg(date)
  from by_merchant_day
  having count(*) > 0
),
stale as (
  -- Running totals lack what did not come through Redis; they are corrected soon after.
  insert into usage_stale_totals as old (merchant_id, date)
  select merchant_id, date
  from by_merchant_day
  where $1 <> 'stream'
  order by 1, 2
  on conflict (merchant_id, date) do update set marked_at = excluded.marked_at
),
told as materialized (
  select count(pg_notify('usage_changed', merchant_id || ' ' || date))
  from by_merchant_day
),
day_models as materialized (
  select
    merchant_id, date, model, provider,
    sum(cost) as cost
  from groups
  group by 1, 2, 3, 4
),
added_to_usage_daily_models as (
  insert into usage_daily_models as old (merchant_id, date, model, provider, cost)
  select
    merchant_id, date, model, provider,
    cost
  from day_models
  order by 1, 2, 3, 4
  on conflict (merchant_id, date, model, provider) do update set
    cost = old.cost + excluded.cost
),
days as materialized (
  select
    date, model, provider,
    sum(cost) as cost
  from day_models
  group by 1, 2, 3
),
added_to_usage_platform_daily as (
  insert into usage_platform_daily as old (date, model, provider, cost)
  select
    date, model, provider,
    cost
  from days
  order by 1, 2, 3
  on conflict (date, model, provider) do update set
    cost = old.cost + excluded.cost
),
late as materialized (
  select *
  from groups
  where (date, merchant_id) <= (select date, merchant_id from usage_rolled_up)
),
months as materialized (
  select
    merchant_id, date_trunc('month', date)::date as month, user_id, api_key, model, provider,
    sum(cost) as cost
  from late
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_monthly as (
  insert into usage_monthly as old (merchant_id, month, user_id, api_key, model, provider, cost)
  select
    merchant_id, month, user_id, api_key, model, provider,
    cost
  from months
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, month, user_id, api_key, model, provider) do update set
    cost = old.cost + excluded.cost
  returning merchant_id, month as period, xmax = 0 as is_new
),
month_models as materialized (
  select
    merchant_id, month, model, provider,
    sum(cost) as cost
  from months
  group by 1, 2, 3, 4
),
added_to_usage_monthly_models as (
  insert into usage_monthly_models as old (merchant_id, month, model, provider, cost)
  select
    merchant_id, month, model, provider,
    cost
  from month_models
  order by 1, 2, 3, 4
  on conflict (merchant_id, month, model, provider) do update set
    cost = old.cost + excluded.cost
),
years as materialized (
  select
    merchant_id, date_trunc('year', month)::date as year, user_id, api_key, model, provider,
    sum(cost) as cost
  from months
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_yearly as (
  insert into usage_yearly as old (merchant_id, year, user_id, api_key, model, provider, cost)
  select
    merchant_id, year, user_id, api_key, model, provider,
    cost
  from years
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, year, user_id, api_key, model, provider) do update set
    cost = old.cost + excluded.cost
  returning merchant_id, year as period, xmax = 0 as is_new
),
users as materialized (
  select
    month, user_id,
    sum(cost) as cost
  from months
  group by 1, 2
),
added_to_usage_platform_users as (
  insert into usage_platform_users as old (month, user_id, cost)
  select
    month, user_id,
    cost
  from users
  order by 1, 2
  on conflict (month, user_id) do update set
    cost = old.cost + excluded.cost
),
platform_months as materialized (
  select
    date_trunc('month', date)::date as month, model, provider,
    sum(cost) as cost
  from late
  where date < (select date from usage_rolled_up)
  group by 1, 2, 3
),
added_to_usage_platform_monthly as (
  insert into usage_platform_monthly as old (month, model, provider, cost)
  select
    month, model, provider,
    cost
  from platform_months
  order by 1, 2, 3
  on conflict (month, model, provider) do update set
    cost = old.cost + excluded.cost
),
quarter_months as materialized (
  select
    merchant_id, usage_quarter_month(date) as quarter_month, user_id, api_key, model, provider,
    sum(cost) as cost
  from late
  where (usage_quarter_month(date), merchant_id) <= (select quarter_month, quarter_merchant from usage_rolled_up)
  group by 1, 2, 3, 4, 5, 6
),
added_to_usage_quarter_months as (
  insert into usage_quarter_months as old (merchant_id, quarter_month, user_id, api_key, model, provider, cost)
  select
    merchant_id, quarter_month, user_id, api_key, model, provider,
    cost
  from quarter_months
  order by 1, 2, 3, 4, 5, 6
  on conflict (merchant_id, quarter_month, user_id, api_key, model, provider) do update set
    cost = old.cost + excluded.cost
  returning merchant_id, quarter_month as period, xmax = 0 as is_new
),
new_rows as (
  select 'usage_monthly' as rollup, period, merchant_id from added_to_usage_monthly where is_new
  union all
  select 'usage_quarter_months' as rollup, period, merchant_id from added_to_usage_quarter_months where is_new
  union all
  select 'usage_yearly' as rollup, period, merchant_id from added_to_usage_yearly where is_new
),
counted_rows as (
  insert into usage_rollup_rows as old (merchant_id, rollup, period, rows)
  select merchant_id, rollup, period, count(*) from new_rows group by 1, 2, 3
  union all
  select '', rollup, period, count(*) from new_rows group by 1, 2, 3
  order by 1, 2, 3
  on conflict (merchant_id, rollup, period) do update set rows = old.rows + excluded.rows
),
rerated as materialized (
  select
    merchant_id, date, user_id, api_key, model, provider, rerated_size as call_size,
    units_sum(cost) as priced_cost, count(*) as reratings
  from inserted
  group by 1, 2, 3, 4, 5, 6, 7
),
added_to_usage_priced as (
  insert into usage_priced as old (merchant_id, date, user_id, api_key, model, provider, call_size, priced_cost,
    reratings)
  select
    merchant_id, date, user_id, api_key, model, provider, call_size,
    priced_cost, reratings
  from rerated
  order by 1, 2, 3, 4, 5, 6, 7
  on conflict (merchant_id, date, user_id, api_key, model, provider, call_size) do update set
    priced_cost = old.priced_cost + excluded.priced_cost,
    reratings = old.reratings + excluded.reratings
)
select
  coalesce((
    select json_object_agg(date, ids) from (select date, json_agg(id) as ids from inserted group by date) as days
  ), '{}') as inserted,
  (select count from told) as told
