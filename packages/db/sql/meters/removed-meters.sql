-- Returns removed meters that still have rows.
select id from meters where removed_at is not null and not purged
