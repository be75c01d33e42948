-- Returns Tally's functions and aggregates that are not on the nodes of Citus yet; statements on distributed tables
-- run them there. Not those that read tables of the coordinator: the one that runs as its owner, and directory_team.
select procedure.oid::regprocedure::text as name
from pg_proc as procedure
join pg_namespace as space on space.oid = procedure.pronamespace
where space.nspname in ('public', 'tally_sources')
  and procedure.prorettype <> 'trigger'::regtype
  and not procedure.prosecdef
  and procedure.proname <> 'directory_team'
  and not exists (
    select from pg_depend as part
    where part.classid = 'pg_proc'::regclass and part.objid = procedure.oid and part.deptype = 'e'
  )
  and not exists (
    select from pg_dist_object as placed
    where placed.classid = 'pg_proc'::regclass and placed.objid = procedure.oid
  )
order by 1
