import { DIMENSIONS, MEASURES } from '@tally/contracts';
import { indent, numericSums, PRICED_AMOUNTS } from './columns.mjs';
import { addTo, PLATFORM } from './rollups.mjs';

// Statements that replace a user by its pseudonym.

/** Moves the rows of one user to its pseudonym, which may have rows already: what came during the erasure. */
const moveUser = (table, period, { more = [], amounts = MEASURES } = {}) => {
  const keys = ['merchant_id', period, ...DIMENSIONS, ...more];
  return `
-- Moves a user's rows of \`${table}\` to the pseudonym.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
-- Returns the periods that changed.
with moved as (
  delete from ${table}
  where merchant_id = $1 and user_id = $2 and ${period} >= $4::date and ${period} < $5::date
  returning ${keys.map((key) => (key === 'user_id' ? '$3::text as user_id' : key)).join(', ')}, ${amounts.join(', ')}
),
added as (
  ${indent(addTo(table, keys, 'moved', { merged: true, returning: period, amounts }))}
)
select distinct ${period} as date
from added
order by 1`;
};

export const statements = {
  'erase/daily': moveUser('usage_daily', 'date'),
  'erase/priced': moveUser('usage_priced', 'date', { more: ['call_size'], amounts: PRICED_AMOUNTS }),
  'erase/monthly': moveUser('usage_monthly', 'month'),
  'erase/quarter-months': moveUser('usage_quarter_months', 'quarter_month'),
  'erase/yearly': moveUser('usage_yearly', 'year'),
  'erase/platform-users': `
-- Moves a merchant's share of a user in the rollup of all merchants to the pseudonym, before \`usage_monthly\` is moved.
-- $1 merchant   $2 user   $3 pseudonym   $4 first day   $5 day after the last
with own as (
  select month, ${numericSums()}
  from usage_monthly
  where merchant_id = $1 and user_id = $2 and month >= $4::date and month < $5::date
  group by month
),
moved as (
  select month, user_id, ${MEASURES.map((name) => `sign * ${name} as ${name}`).join(', ')}
  from own
  cross join (values ($2::text, -1), ($3::text, 1)) as side (user_id, sign)
)
${addTo('usage_platform_users', PLATFORM.usage_platform_users, 'moved', { merged: true }).trim()}`,
  ...Object.fromEntries(
    ['daily', 'weekly', 'monthly'].map((grain) => [
      `erase/${grain}-metrics`,
      `
-- Renames a user in \`${grain}_metrics\`; an existing row of the pseudonym is newer, and stays.
-- $1 merchant   $2 user   $3 pseudonym
with known as (
  select period_start, metric_type
  from ${grain}_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $3
),
removed as (
  delete from ${grain}_metrics
  where merchant_id = $1 and entity_type = 'user' and entity_id = $2
    and (period_start, metric_type) in (select period_start, metric_type from known)
)
update ${grain}_metrics
set entity_id = $3
where merchant_id = $1 and entity_type = 'user' and entity_id = $2
  and (period_start, metric_type) not in (select period_start, metric_type from known)`,
    ]),
  ),
};
