-- Creates a budget.
-- $1 json object of its fields
insert into budgets (
  name, merchant_id, team, user_id, api_key, model, measure, meter, "limit", period, time_zone, enforcement,
  when_unavailable, thresholds, created_by)
select
  name, "merchantId", team, "userId", "apiKey", model, measure, meter, "limit", period, "timeZone", enforcement,
  "whenUnavailable", thresholds, "createdBy"
from json_to_record($1::json) as budget (
  name text, "merchantId" text, team text, "userId" text, "apiKey" text, model text, measure text, meter jsonb,
  "limit" bigint, period text, "timeZone" text, enforcement text, "whenUnavailable" text, thresholds int[],
  "createdBy" text)
returning id
