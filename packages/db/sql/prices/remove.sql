-- Removes prices from the list.
-- $1 their ids, the text of an array   $2 the version that no longer has them
update prices set removed_in = $2::bigint
where id in (select unnest($1::text::bigint[]))
