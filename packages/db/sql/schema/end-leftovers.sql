-- Ends the other connections of this role that migrate, and waits for their end. Call it with the lock of migrations:
-- whoever does not hold it may not change the schema.
-- $1 name of connections that migrate   $2 longest wait for one, in milliseconds
select pg_terminate_backend(pid, $2::bigint) from pg_stat_activity
where application_name = $1 and datname = current_database() and usename = current_user
