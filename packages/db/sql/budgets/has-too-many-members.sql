-- Returns whether more users and API keys of the directory have a team than a number.
-- $1 number
select exists (
  select from directory_entries where team is not null and kind in ('user', 'apiKey') offset $1::bigint
) as too_many
