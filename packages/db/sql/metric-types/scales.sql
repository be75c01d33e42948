-- Returns the scales of those of some metric types that have one.
-- $1 metric types
select metric_type, scale from metric_types where metric_type = any($1)
