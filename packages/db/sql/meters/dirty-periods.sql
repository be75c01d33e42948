-- Returns dirty periods whose finer periods are clean, oldest first.
-- $1 grain   $2 first period that is not over   $3 ms without writes   $4 limit   $5 finer grain, if it has marks
-- $6 length of a period
select merchant_id, period
from meter_marks as mark
where grain = $1 and period < $2 and marked_at <= clock_timestamp() - $3 * interval '1 millisecond'
  and not exists (
    select from meter_marks as fine
    where fine.merchant_id = mark.merchant_id and fine.grain = $5 and fine.period >= mark.period
      and fine.period < mark.period + $6::interval)
order by period, merchant_id
limit $4
