-- Records the run that added some adjustments to the rollups of meters.
-- $1 run   $2 id of the voided event, else null   $3 merchant   $4 adjustment ids
update usage_adjustments set metered = $1, void_of = $2 where merchant_id = $3 and id = any($4)
