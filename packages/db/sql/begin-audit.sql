-- Records the start of an administrative mutation; its outcome follows. Returns the row's id.
-- $1 service   $2 action   $3 actor   $4 role   $5 the actor's merchant   $6 merchants named   $7 target   $8 input
insert into audit_log (service, action, actor, role, actor_merchant_id, merchant_ids, target_id, input)
values ($1, $2, $3, $4, $5, $6::text[], $7, $8::jsonb)
returning id
