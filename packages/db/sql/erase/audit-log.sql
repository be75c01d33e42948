-- Renames a user in the audit log, and removes names and addresses that were written into the directory.
-- $1 merchant   $2 user   $3 pseudonym   $4 whether rows that name no merchant are included
update audit_log
set input = case
  when action = 'directory.upsert' then jsonb_build_object('erased', $3::text)
  else tally_renamed(tally_renamed(input, $2, $3), left($2, 200) || '…', $3)
end
where (merchant_ids @> array[$1::text] or ($4 and merchant_ids = '{}'))
  and (
    strpos(input::text, to_jsonb($2::text)::text) > 0
    or (length($2) > 200 and strpos(input::text, to_jsonb(left($2, 200) || '…')::text) > 0)
  )
