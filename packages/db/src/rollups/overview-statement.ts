import { bindings } from '../run-sql.ts';
import type { SumOf } from '../unit-sums.ts';
import { anySum, grouped, known, PROVIDERS, sumsOf, textsOf, userOf } from './grouping.ts';
import type { Missing } from './missing.ts';
import type { Scope } from './scope.ts';
import { isAmong, type Read, sharingPending } from './source.ts';
import type { OverviewQuestion } from './usage-reader.ts';

/** Writes the query of a summary. Its one row has the number of active users, and users, models and days as JSON. */
export function overviewStatement(
  { parts, limits, ...filters }: OverviewQuestion,
  { sumFor, missing }: { sumFor(scope: Scope): SumOf; missing: Missing },
): { text: string; values: unknown[] } {
  const { bind, values } = bindings();
  const users: Scope = { ...filters, parts: parts.users };
  const models: Scope = { ...filters, parts: parts.models };
  const days: Scope = { ...filters, parts: parts.days };
  const all: Scope = { ...filters, parts: [users, models, days].flatMap((scope) => scope.parts) };
  const sum = sumFor(all);
  // Found once, not once for each of the three: that costs more than the rollups of all merchants.
  const { pending, read } = sharingPending(all, bind, { sum, missing });
  const ofModels = { sums: sumsOf(models, sum), some: anySum(models, sum) };
  const text = `with ${pending}
    ${firstUsers(users, { sum, read, limit: bind(limits.users) })},
    models as (
      select ${known('model')} as key, ${PROVIDERS}, ${ofModels.sums}
      from ${grouped(['model'], read(models, 'model, provider'), ofModels)}
      group by model having ${ofModels.some}
    ),
    days as (
      select date, ${sumsOf(days, sum)} from (${read(days, 'date')}) as part group by date
    )
    select
      (select count(*) from active where requests > 0) as active_users,
      ${topOf('users', users, bind(limits.users))} as users,
      ${topOf('models', models, bind(limits.models), `, 'providers', providers`)} as models,
      (select json_agg(json_build_object('date', date::text, ${textsOf(days)}) order by date) from days) as by_day`;
  return { text, values };
}

/** Writes `active`, the requests and cost of each user, and `users`, all sums of those with the highest cost. */
function firstUsers(users: Scope, { sum, read, limit }: { sum: SumOf; read: Read; limit: string }): string {
  const user = userOf(users);
  // In one merchant, a row of `active` has the whole user.
  const isOneMerchant = user === 'user_id';
  const ranks = isOneMerchant
    ? 'active'
    : `(select user_id, ${sum}(requests) as requests, ${sum}(cost) as cost from active group by user_id) as ranks`;
  // Found once: each part of the union would look for them.
  const firstMerchants = isOneMerchant
    ? ''
    : `first_merchants as materialized (
      select distinct merchant_id from active where user_id in (select user_id from first_users)
    ),`;
  const only = {
    hashed: isAmong(['user_id'], 'select user_id from first_users'),
    indexed: [
      'user_id = any(array(select user_id from first_users))',
      ...(isOneMerchant ? [] : ['merchant_id = any(array(select merchant_id from first_merchants))']),
    ].join(' and '),
    byMerchant: true,
  };
  return `active as materialized (
      select ${user}, coalesce(${sum}(requests), 0) as requests, coalesce(${sum}(cost), 0) as cost
      from (${read(users, user, { measures: ['requests', 'cost'] })}) as part where user_id <> '' group by ${user}
    ),
    first_users as (
      select user_id
      from ${ranks}
      where requests <> 0 or cost <> 0
      order by cost desc, user_id collate "C" desc
      limit ${limit}
    ),
    ${firstMerchants}
    users as (
      select user_id as key, ${sumsOf(users)} from (${read(users, user, { only })}) as part group by user_id
    )`;
}

/** The groups of a relation with the highest cost, as one JSON array in their order. */
const topOf = (groups: string, scope: Scope, limit: string, more = '') => `(
  select json_agg(
    json_build_object('keys', array[key], 'sort_value', cost::text, ${textsOf(scope)} ${more})
    order by cost desc, key collate "C" desc)
  from (select * from ${groups} order by cost desc, key collate "C" desc limit ${limit}) as page
)`;
