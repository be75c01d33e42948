-- Records the position of the renaming in the journal, or its completion.
-- $1 pseudonym   $2 day   $3 last renamed event of that day   $4 whether the erasure is complete
update erased_users
set after_date = $2, after_id = $3, completed_at = case when $4 then clock_timestamp() end
where pseudonym = $1
