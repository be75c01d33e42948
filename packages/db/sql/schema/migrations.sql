-- Returns the number of migrations that ran.
select count(*) as count
from tally_migrations
