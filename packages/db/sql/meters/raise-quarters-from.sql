-- Raises the first day with quarter hours, once no earlier day is dirty.
-- $1 date
update meter_state set quarters_from = $1
where quarters_from < $1 and not exists (select from meter_marks where grain = 'day' and period < $1)
