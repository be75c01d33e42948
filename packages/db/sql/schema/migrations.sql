-- How many migrations ran.
select count(*) as count
from tally_migrations
