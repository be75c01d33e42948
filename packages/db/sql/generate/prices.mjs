import { DIMENSIONS, PRICED_MEASURES, PRICED_PARTS } from '@tally/contracts';
import { PRICED_KEYS, partsOf, RERATING, rolled, rolledDimensions } from './columns.mjs';

// Statements over what Tally priced.

/** Re-ratings, as rows of `usage_priced`. */
export const reratings = (from, ...conditions) => `
select
  merchant_id, date,
  ${rolledDimensions.join(',\n  ')},
  rerated_size, ${PRICED_MEASURES.map((name) => (name === 'priced_cost' ? 'cost' : '0')).join(', ')}, 1
from ${from}
where ${[...conditions, 'rerated_size is not null'].join(' and ')}`;

const countPricedVoid = `
-- Takes the event that an adjustment takes back out of what Tally priced.
-- $1 merchant   $2 id of the adjustment
insert into usage_priced as old (
  ${PRICED_KEYS.join(', ')},
  ${PRICED_MEASURES.join(', ')})
select
  event.merchant_id, event.date,
  ${DIMENSIONS.map((name, bit) => rolled(name, bit, 'event.')).join(',\n  ')},
  call_size, -1, ${PRICED_PARTS.map((name) => `-${name}`).join(', ')}, -event.cost
from usage_adjustments as void
join usage_events as event on event.merchant_id = $1 and event.date = void.date and event.id = void.void_of
cross join lateral ${partsOf('event.')}
where void.merchant_id = $1 and void.id = $2 and event.price_version is not null
on conflict (${PRICED_KEYS.join(', ')}) do update set
  ${PRICED_MEASURES.map((name) => `${name} = old.${name} + excluded.${name}`).join(',\n  ')}`;

const pricedSums = `
-- What Tally priced, summed over users and API keys: by merchant, day, model, provider and size of calls.
-- $1 first day   $2 last day   $3 merchants, or null for all   $4 how many at most   $5 providers, or null for all
-- $6 only merchants after this one
select cells.*, exists (select from usage_closed_days as closed where closed.date = cells.date) as is_closed
from (
  select
    merchant_id, date, model, provider, call_size, count(*)::int as rows,
    ${PRICED_MEASURES.map((name) => `sum(${name}) as ${name}`).join(', ')}
  from usage_priced
  where date between $1::date and $2::date and ($3::text[] is null or merchant_id = any($3))
    and ($5::text[] is null or provider = any($5)) and merchant_id > $6
  group by 1, 2, 3, 4, 5
  order by 1, 2, 3, 4, 5
  limit $4
) as cells`;

const FILTERED = ['merchant_id', ...DIMENSIONS];
const pricedWindows = `
-- Sums of one measure of what Tally priced, by windows of UTC days and dimensions; windows and groups without any left out.
-- $1 the measure   $2 the beginnings of the windows   $3 the end of the last one   $4 columns to group by
-- ${FILTERED.map((name, index) => `$${index + 5} ${name}`).join('   ')}: values of each, or null for all   $${FILTERED.length + 5} how many at most
select slot, keys, sum(units) as units
from (
  select
    width_bucket(date, $2::date[]) - 1 as slot,
    array_remove(array[${FILTERED.map((name) => `case when '${name}' = any($4::text[]) then ${name} end`).join(', ')}], null) as keys,
    case $1::text ${PRICED_MEASURES.map((name) => `when '${name}' then ${name}`).join(' ')} end as units
  from usage_priced
  where date >= ($2::date[])[1] and date < $3::date
    ${FILTERED.map((name, index) => `and ($${index + 5}::text[] is null or ${name} = any($${index + 5}))`).join('\n    ')}
) as counted
group by 1, 2
having sum(units) <> 0
order by 1, 2
limit $${FILTERED.length + 5}`;

/** Whole numbers of times that twice \`per\` fits, towards 0. */
const QUOTIENTS = {
  bigint: (sum) => `(${sum}) / (2 * per)`,
  numeric: (sum) => `div(${sum}, 2 * per)`,
};

/** Rows of \`usage_priced\` with their cost by given rates: what cannot be told from a rounding stays as it is. */
const rerated = (type) => `cells as (
  select *
  from unnest(
    $1::text[], $2::date[], $3::text[], $4::text[], $5::smallint[],
    ${PRICED_PARTS.map((_, index) => `$${index + 6}::${type}[]`).join(', ')}, $${PRICED_PARTS.length + 6}::${type}[]
  ) as cell (
    merchant_id, date, model, provider, call_size,
    ${PRICED_PARTS.map((name) => name.replace('priced_', 'rate_')).join(', ')}, per)
),
computed as (
  select
    priced.*, per,
    ${QUOTIENTS[type](`2 * (
      ${PRICED_PARTS.map((name) => `${name} * ${name.replace('priced_', 'rate_')}`).join('\n      + ')}
    ) + per`)} as cost
  from cells
  join usage_priced as priced using (merchant_id, date, model, provider, call_size)
  -- Else each statement would read the whole table.
  where priced.merchant_id = any($1) and priced.date between (select min(date) from cells) and (select max(date) from cells)
),
rerated as (
  select
    *, priced_cost as old,
    case when per > 1 and 2 * abs(cost - priced_cost) <= priced_events then priced_cost else cost end as new
  from computed
)`;
const ratesOfCells = `-- $1 merchants, $2 days, $3 models, $4 providers and $5 sizes of cells, one element each
-- $6 to $${PRICED_PARTS.length + 5} nano-USD of a unit of each class, times $${PRICED_PARTS.length + 6}
-- A cost is rounded once for a row, half away from zero. The cost before was rounded for each event: a difference that small
-- is none.`;
const sizeOf = (type) =>
  type === 'bigint'
    ? '-- In 64 bits, which takes a quarter of the time of rerate-*-large.sql; larger numbers are an error.'
    : '-- For cells of which 64 bits may be too few.';
const rerateSums = (type) => `
-- What Tally priced by other rates, summed over users and API keys.
${ratesOfCells}
${sizeOf(type)}
with ${rerated(type)}
select
  merchant_id, date, model, provider, sum(priced_events) as events, sum(old) as old, sum(new) as new,
  count(*) filter (where new <> old)::int as different
from rerated
group by 1, 2, 3, 4`;
const rerateRows = (type) => `
-- Re-ratings: rows of what Tally priced whose cost is another by other rates, as arrays that \`rerate.sql\` takes.
${ratesOfCells}
-- $${PRICED_PARTS.length + 7} re-ratings of one merchant in a row at most; days of a user come together
${sizeOf(type)}
with ${rerated(type)},
placed as (
  select
    *, new - old as difference,
    (row_number() over (partition by merchant_id order by user_id, date, api_key) - 1) / $${PRICED_PARTS.length + 7}::int as place
  from rerated
  where new <> old
)
select
  merchant_id,
  ${RERATING.map(([name]) => `array_agg(${name})::text as ${name}`).join(',\n  ')}
from placed
group by merchant_id, place
order by merchant_id, place`;

export const statements = {
  'count-priced-void': countPricedVoid,
  'priced-sums': pricedSums,
  'priced-windows': pricedWindows,
  'rerate-sums': rerateSums('bigint'),
  'rerate-sums-large': rerateSums('numeric'),
  'rerate-rows': rerateRows('bigint'),
  'rerate-rows-large': rerateRows('numeric'),
};
