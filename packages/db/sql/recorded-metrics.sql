-- Returns whether a merchant ever had one of these metric types, whether it had any, and the first day whose events are
-- all kept.
-- $1 merchant   $2 metric types
select
  exists (select from merchant_usage where merchant_id = $1 and metric_type = any($2::text[])) as has_metric,
  exists (select from merchant_usage where merchant_id = $1) as has_any,
  (select (max(date) + 1) from usage_closed_days) as kept_from
