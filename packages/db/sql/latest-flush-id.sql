-- Returns the latest id that a flush got, also one that is not committed yet; 0 if there is none.
select coalesce(pg_sequence_last_value(pg_get_serial_sequence('usage_flushes', 'id')::regclass), 0)::text as id
