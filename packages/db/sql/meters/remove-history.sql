-- Removes the history of a meter.
-- $1 id of the meter
delete from meter_history where meter_id = $1
