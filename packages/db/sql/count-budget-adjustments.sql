-- Adds adjustments that this transaction has just recorded to the spend of budgets. They stand at the start of their day.
-- $1 merchant   $2 ids of the adjustments
insert into budget_spend as old (budget_id, period_start, units)
select
  budget.id,
  case budget.period
    when 'total' then to_timestamp(0)
    else date_trunc(budget.period, adjustment.date::timestamp at time zone 'UTC', budget.time_zone)
  end,
  sum(
    case budget.measure
      when 'cost' then cost
      when 'requests' then requests
      else prompt_tokens + completion_tokens
    end
  )
from usage_adjustments as adjustment
join budgets as budget
  on budget.removed_at is null
    and budget.merchant_id in ('', adjustment.merchant_id)
    and budget.user_id in ('', adjustment.user_id)
    and budget.api_key in ('', adjustment.api_key)
    and budget.model in ('', adjustment.model)
where adjustment.merchant_id = $1 and adjustment.id = any($2::text[])
group by 1, 2
order by 1, 2
on conflict (budget_id, period_start) do update set units = old.units + excluded.units
