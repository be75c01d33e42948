-- Returns the version of the list of budgets.
select version::text from budget_list
