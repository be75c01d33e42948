-- Stores the events that ids of calls stand for; of known ids, only adds a missing response id.
-- Arrays, one value per id: $1 merchants, $2 ids, $3 entries, $4 times in ms, $5 whether they are times of sending,
-- $6 response ids, $7 failed, $8 prompt tokens, $9 completion tokens, $10 costs.
insert into litellm_calls as known (merchant_id, alias, date, entry_id, time, is_sent_time, response_id, failed,
  prompt_tokens, completion_tokens, cost)
select merchant_id, alias, (to_timestamp(ms / 1000.0) at time zone 'UTC')::date, entry_id, to_timestamp(ms / 1000.0),
  is_sent_time, response_id, failed, prompt_tokens, completion_tokens, cost
from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::boolean[], $6::text[], $7::boolean[], $8::bigint[],
  $9::bigint[], $10::bigint[])
  as noted (merchant_id, alias, entry_id, ms, is_sent_time, response_id, failed, prompt_tokens, completion_tokens, cost)
on conflict (merchant_id, alias, date, entry_id) do update set
  response_id = coalesce(known.response_id, excluded.response_id)
