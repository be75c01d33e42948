-- Records that a user of a merchant is being erased. If that was complete, starts again; the pseudonym stays.
-- $1 merchant   $2 user   $3 pseudonym, if it has none yet   $4 actor
insert into erased_users as known (merchant_id, digest, pseudonym, requested_by)
values ($1, encode(sha256(convert_to($1 || chr(10) || $2, 'UTF8')), 'hex'), $3, $4)
on conflict (merchant_id, digest) do update set
  after_date = case when known.completed_at is null then known.after_date else '0001-01-01' end,
  after_id = case when known.completed_at is null then known.after_id else '' end,
  completed_at = null
returning pseudonym, after_date, after_id
