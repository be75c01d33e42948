-- Whether this connection has the settings that the pool asked for; a pooler between loses them.
select current_setting('tally.session', true) as session, setting as timeout
from pg_settings
where name = 'statement_timeout'
