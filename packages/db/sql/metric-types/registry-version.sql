-- Returns the version of the registry of meters.
select version from meter_state
