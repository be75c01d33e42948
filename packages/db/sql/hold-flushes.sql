-- Locks flushes not yet derived until the transaction ends; waits for running derivations.
select count(*) as held
from (select id from usage_flushes where derived_at is null order by id for update) as pending
