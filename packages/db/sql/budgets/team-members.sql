-- Returns the users and API keys of the directory that have a team.
-- $1 at most so many
select kind, merchant_id, id, team
from directory_entries
where team is not null and kind in ('user', 'apiKey')
order by kind, merchant_id, id
limit $1
