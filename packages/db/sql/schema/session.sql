-- Returns whether this connection has the settings that the pool requested; a pooler in between loses them.
select current_setting('tally.session', true) as session
