-- Starts the next derivation run with a new version of the registry of meters. Returns the run.
with raised as (update meter_state set run = run + 1, version = version + 1 returning run)
select run from raised
