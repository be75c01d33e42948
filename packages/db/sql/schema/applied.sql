-- Returns the names of the migrations that ran.
select name
from tally_migrations
