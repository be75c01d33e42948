-- Returns what is known of calls by their ids.
-- $1 text[]: merchants, $2 text[]: ids, one of each per id asked for.
select merchant_id, alias, entry_id, time, is_sent_time, response_id, failed, prompt_tokens, completion_tokens, cost
from litellm_calls
join (select distinct * from unnest($1::text[], $2::text[]) as pairs (merchant_id, alias)) as asked
  using (merchant_id, alias)
