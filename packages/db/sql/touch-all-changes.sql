-- Raises every version at once.
insert into usage_changes as old (grain, period, merchant_id)
values ('all', '2000-01-01', '')
on conflict (grain, period, merchant_id) do update set changes = old.changes + 1
