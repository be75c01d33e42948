-- Whether Citus is in this database, and how many nodes take shards.
select
  exists (select from pg_available_extensions where name = 'citus') as available,
  exists (select from pg_extension where extname = 'citus') as installed
