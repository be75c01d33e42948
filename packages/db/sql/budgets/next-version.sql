-- Raises the version of the list of budgets.
update budget_list set version = version + 1
