-- Adds prices to the list, and again those that end at a time from now on.
-- $1 wanted prices, a JSON array   $2 the places of the new ones in $1, the text of an array
-- $3 the ids of those that end, likewise   $4 when they end   $5 who adds them   $6 the version that has them
insert into prices (
  merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, source,
  created_by, added_in)
select
  merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, source,
  $5, $6::bigint
from (
  select
    0 as part, place, merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per,
    valid_to, source
  from rows from (
    json_to_recordset($1) as (
      "merchantId" text, model text, provider text, meter text, component text, "overPromptTokens" bigint,
      "validFrom" timestamptz, amount numeric, per bigint, "validTo" timestamptz, source text)
  ) with ordinality as sent (
    merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, source, place)
  join unnest($2::text::bigint[]) as fresh (place) using (place)
  union all
  select
    1, id, merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per,
    $4::timestamptz, source
  from prices
  where id in (select unnest($3::text::bigint[]))
) as added
order by part, place
