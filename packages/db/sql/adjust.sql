-- Records an adjustment and counts it, once per id.
-- $1 source   $2 json object of the adjustment
-- Returns one row: whether it was new, and the merchants' days it changed.
with inserted as (
  insert into usage_adjustments (
    merchant_id, id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, reason, actor)
  select
    merchant_id, id, date, user_id, api_key, model, provider,
    requests, failed_requests, prompt_tokens, completion_tokens, cost, metrics, reason, actor
  from json_to_record($2::json) as adjustment (
    merchant_id text, id text, date date, user_id text, api_key text, model text, provider text,
    requests bigint, failed_requests bigint, prompt_tokens bigint, completion_tokens bigint, cost bigint,
    metrics jsonb, reason text, actor text)
  on conflict (merchant_id, id) do nothing
  -- It has a day but no time: intraday it stands at the beginning of its day.
  returning *, date::timestamp at time zone 'UTC' as time
),
-- @include derive
select
  (select count(*) from inserted) as inserted,
  (select count from told) as told
