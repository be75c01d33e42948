-- Renames a user in dead letters.
-- $1 merchant   $2 user   $3 pseudonym
update usage_dead_letters
set line = tally_renamed(line, $2, $3)
where merchant_id = $1
  and strpos(line::text, to_jsonb($2::text)::text) > 0
