-- Returns the first day with quarter hours; earlier ones are kept by day.
select quarters_from from meter_state
