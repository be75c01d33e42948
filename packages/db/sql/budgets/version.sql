-- Returns the version of the list of budgets; where budgets are of teams, changes of the directory are part of it.
select
  version::text || case
    when exists (select from budgets where removed_at is null and team <> '')
      then '/' || (select coalesce(sum(changes), 0) from usage_changes where grain = 'all')
    else ''
  end as version
from budget_list
