-- Who else is connected to this database; the connections of Citus itself are left out.
select coalesce(nullif(application_name, ''), 'pid ' || pid) as name, count(*)::int as connections
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
  and application_name not like 'citus%'
group by 1
order by 1
