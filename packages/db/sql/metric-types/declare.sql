-- Declares the scale of metric types without one.
-- $1 metric types   $2 scale
insert into metric_types (metric_type, scale)
select type, $2::smallint from unnest($1::text[]) as type
order by 1
on conflict do nothing
