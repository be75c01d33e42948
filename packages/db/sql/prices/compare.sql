-- Compares wanted prices with the active ones.
-- $1 wanted prices, a JSON array; of those with the same key the last one counts
-- $2 the source of an import, $3 the time from which its prices hold; null where prices are only added
-- Returns one row: which are new (their places in $1), which are replaced or end (their ids), and how many there are.
-- Arrays are texts, so that no caller has to read them. Sorts instead of joining: the planner cannot know how many
-- prices are wanted, and would compare each with each.
with wanted as (
  select distinct on (merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from)
    merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, place
  from rows from (
    json_to_recordset($1) as (
      "merchantId" text, model text, provider text, meter text, component text, "overPromptTokens" bigint,
      "validFrom" timestamptz, amount numeric, per bigint, "validTo" timestamptz)
  ) with ordinality as sent (
    merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, place)
  order by
    merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, place desc
),
-- One row for each key: what is wanted of it, and the active price.
keyed as (
  select
    merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from,
    max(place) as place, max(id) as id, max(source) as source,
    row(max(amount) filter (where place is not null), max(per) filter (where place is not null),
      max(valid_to) filter (where place is not null)) as said,
    row(max(amount) filter (where id is not null), max(per) filter (where id is not null),
      max(valid_to) filter (where id is not null)) as known,
    max(valid_to) filter (where id is not null) as known_to
  from (
    select *, null::bigint as id, null as source from wanted
    union all
    select
      merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from, amount, per, valid_to, null,
      id, source
    from prices
    where removed_in is null
  ) as both_of_them
  group by merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from
),
seen as (
  select
    place, id, source, merchant_id, said, known, known_to,
    valid_from < $3::timestamptz as held_before,
    -- The price that took over last before the import. An import has no wanted prices from before it.
    valid_from = $3::timestamptz and lag(id) over series is not null and said = lag(known) over series as holds_already,
    max(place) over (partition by merchant_id, model, provider) is not null as has_model,
    max(place) filter (where valid_from = $3::timestamptz) over (
      partition by merchant_id, model, provider, meter, component, over_prompt_tokens) is not null as is_named_then
  from keyed
  window series as (
    partition by merchant_id, model, provider, meter, component, over_prompt_tokens order by valid_from)
),
compared as (
  select
    place, id, held_before,
    case when id is null then coalesce(holds_already, false) else said = known end as is_same,
    -- What the source had for the models of the import, and what would count beside the imported prices.
    id is not null and source = $2::text and merchant_id = '' and has_model
      and (known_to is null or known_to > $3::timestamptz)
      and not (case when held_before then is_named_then else place is not null end) as is_ending
  from seen
),
decided as (
  select id, place, held_before, place is not null and not is_same as is_fresh, coalesce(is_ending, false) as is_ending
  from compared
)
select
  count(id)::int as active,
  count(place) filter (where not is_fresh)::int as unchanged,
  count(*) filter (where is_fresh)::int as fresh,
  count(id) filter (where is_fresh)::int as replaced,
  count(*) filter (where is_ending)::int as ended,
  count(*) filter (where is_ending and held_before)::int as shortened,
  coalesce(array_agg(place) filter (where is_fresh), '{}')::text as fresh_places,
  coalesce(array_agg(id) filter (where id is not null and (is_fresh or is_ending)), '{}')::text as removed_ids,
  coalesce(array_agg(id) filter (where is_ending and held_before), '{}')::text as shortened_ids
from decided
