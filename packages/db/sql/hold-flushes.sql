-- Keeps flushes that are still to be derived as they are until the transaction ends; waits for derivations under way.
select count(*) as held
from (select id from usage_flushes where derived_at is null order by id for update) as pending
