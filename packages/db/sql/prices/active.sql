-- Returns active prices in order of their ids.
-- $1 only those after this id   $2 at most so many
select
  id, provider, model, meter, merchant_id as "merchantId", component, over_prompt_tokens as "overPromptTokens", amount,
  per, valid_from as "validFrom", valid_to as "validTo", source, created_at as "createdAt",
  created_by as "createdBy", added_in as "addedIn", removed_in as "removedIn"
from prices
where removed_in is null and id > $1::bigint
order by id
limit $2
