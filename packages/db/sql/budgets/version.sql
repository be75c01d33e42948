-- Returns the version of the list of budgets; where budgets are of teams, changes of who is in a team are part of it.
select
  version::text || case
    when exists (select from budgets where removed_at is null and team <> '') then '/' || members
    else ''
  end as version
from budget_list
