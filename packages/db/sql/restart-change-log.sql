-- Empties the log of changes, so that every reader begins with the list of all merchants' days.
with removed as (delete from usage_change_log)
insert into usage_change_log (merchant_ids, dates) values ('{}', '{}')
