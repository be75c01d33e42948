-- Starts the next derivation run. Returns it, and the first day with quarter hours.
with raised as (update meter_state set run = run + 1 returning run, quarters_from)
select run, quarters_from from raised
