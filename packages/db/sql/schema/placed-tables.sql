-- Tables that Citus has placed: those with a distribution column, and reference tables.
select logicalrelid::text as name
from pg_dist_partition
where partmethod in ('h', 'n') and (partmethod = 'h' or repmodel = 't')
