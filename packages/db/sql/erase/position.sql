-- Records how far the journal is renamed, or that nothing is left to rename.
-- $1 pseudonym   $2 day up to which it is   $3 event of that day up to which it is   $4 whether nothing is left
update erased_users
set after_date = $2, after_id = $3, completed_at = case when $4 then clock_timestamp() end
where pseudonym = $1
