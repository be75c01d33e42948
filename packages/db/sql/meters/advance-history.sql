-- Records how far a day of a meter's history is computed.
-- $1 id of the meter   $2 date   $3 last merchant computed, null after the last of the day
update meter_history set after_merchant = coalesce($3, after_merchant), done = $3::text is null
where meter_id = $1 and date = $2
