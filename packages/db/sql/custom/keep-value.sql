-- Counts a use of a custom metric, and stores its value, replacing that of the same version, period and merchant.
-- $1 definition   $2 version   $3 merchant, '*' for all   $4 type of the period   $5 first day   $6 last day
-- $7 value   $8 rows   $9 cost   $10 milliseconds   $11 caller
with used as (
  update custom_metric_definitions
  set uses = uses + 1, last_used_at = now()
  where id = $1
)
insert into custom_metric_values (
  definition_id, version, merchant_id, period_type, period_start, period_end,
  value, rows, cost, duration_ms, calculated_by)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (definition_id, version, merchant_id, period_start, period_end) do update set
  period_type = excluded.period_type,
  value = excluded.value,
  rows = excluded.rows,
  cost = excluded.cost,
  duration_ms = excluded.duration_ms,
  calculated_by = excluded.calculated_by,
  calculated_at = now()
