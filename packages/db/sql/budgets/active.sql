-- Returns all active budgets, oldest first.
select
  id, name, merchant_id as "merchantId", team, user_id as "userId", api_key as "apiKey", model, measure, meter, "limit",
  period, time_zone as "timeZone", enforcement, when_unavailable as "whenUnavailable", thresholds,
  thresholds_since as "thresholdsSince", created_at as "createdAt", created_by as "createdBy",
  removed_at as "removedAt"
from budgets
where removed_at is null
order by created_at, id
