-- Sums of one measure of what Tally priced, by windows of UTC days and dimensions; windows and groups without any left out.
-- $1 the measure   $2 the beginnings of the windows   $3 the end of the last one   $4 columns to group by
-- $5 merchant_id   $6 user_id   $7 api_key   $8 model   $9 provider: values of each, or null for all   $10 how many at most
select slot, keys, sum(units) as units
from (
  select
    width_bucket(date, $2::date[]) - 1 as slot,
    array_remove(array[case when 'merchant_id' = any($4::text[]) then merchant_id end,
      case when 'user_id' = any($4::text[]) then user_id end, case when 'api_key' = any($4::text[]) then api_key end,
      case when 'model' = any($4::text[]) then model end, case when 'provider' = any($4::text[]) then provider end],
      null) as keys,
    case $1::text when 'priced_events' then priced_events when 'priced_requests' then priced_requests when 'priced_input_tokens' then priced_input_tokens when 'priced_cached_tokens' then priced_cached_tokens when 'priced_cache_write_tokens' then priced_cache_write_tokens when 'priced_output_tokens' then priced_output_tokens when 'priced_reasoning_tokens' then priced_reasoning_tokens when 'priced_cost' then priced_cost end as units
  from usage_priced
  where date >= ($2::date[])[1] and date < $3::date
    and ($5::text[] is null or merchant_id = any($5))
    and ($6::text[] is null or user_id = any($6))
    and ($7::text[] is null or api_key = any($7))
    and ($8::text[] is null or model = any($8))
    and ($9::text[] is null or provider = any($9))
) as counted
group by 1, 2
having sum(units) <> 0
order by 1, 2
limit $10
