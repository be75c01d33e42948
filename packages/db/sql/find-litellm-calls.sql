-- Returns the recorded calls with some ids.
-- $1 text[]: merchants, $2 text[]: ids, one merchant per id.
select merchant_id, alias, entry_id, time, is_sent_time, response_id, failed, prompt_tokens, completion_tokens, cost
from litellm_calls
join (select distinct * from unnest($1::text[], $2::text[]) as pairs (merchant_id, alias)) as asked
  using (merchant_id, alias)
