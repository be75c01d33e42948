-- Returns the day snapshots after a day that name a user. Imported ones are never rebuilt, so they are left out.
-- $1 user   $2 day   $3 days at most
select date, cache_status as status
from daily_usage_cache
where document_keys(aggregated_by_user) @> array[$1::text] and changes is not null and date > $2::date
order by date
limit $3
