-- Returns the spend of every active budget in some periods: one row for each period that has budgets, their ids and
-- units as lists, since thousands of rows take longer to read than to find.
-- $1 kinds of periods, $2 time zones, $3 starts: one of each for every period
select period, time_zone, start, string_agg(id::text, ',' order by id) as ids,
  string_agg(coalesce(units, 0)::text, ',' order by id) as units
from unnest($1::text[], $2::text[], $3::timestamptz[]) as periods (period, time_zone, start)
join budgets using (period, time_zone)
left join budget_spend on budget_id = id and period_start = start
where removed_at is null
group by period, time_zone, start
