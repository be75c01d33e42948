import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLE = 'tally_bi_reader';

/** A merchant's own name wins over the one for all merchants. */
const nameJoin = (alias: string, kind: string, id: string) => `
  left join directory_entries own_${alias}
    on own_${alias}.kind = '${kind}' and own_${alias}.id = ${id} and own_${alias}.merchant_id = usage.merchant_id
  left join directory_entries common_${alias}
    on common_${alias}.kind = '${kind}' and common_${alias}.id = ${id} and common_${alias}.merchant_id = ''`;
const named = (alias: string, column: string) => `coalesce(own_${alias}.${column}, common_${alias}.${column})`;
const NAMES = `
  ${nameJoin('merchant', 'merchant', 'usage.merchant_id')}
  ${nameJoin('user', 'user', 'usage.user_id')}
  ${nameJoin('key', 'apiKey', 'usage.api_key')}`;
const DIMENSIONS = `
  usage.merchant_id,
  coalesce(${named('merchant', 'name')}, usage.merchant_id) as merchant_name,
  nullif(usage.user_id, '') as user_id,
  coalesce(${named('user', 'name')}, nullif(usage.user_id, '')) as user_name,
  ${named('user', 'email')} as user_email,
  coalesce(${named('key', 'team')}, ${named('user', 'team')}) as team,
  nullif(usage.api_key, '') as api_key,
  coalesce(${named('key', 'name')}, nullif(usage.api_key, '')) as api_key_name,
  nullif(usage.model, '') as model,
  nullif(usage.provider, '') as provider`;
const AMOUNTS = `
  usage.requests,
  usage.failed_requests,
  usage.prompt_tokens,
  usage.completion_tokens,
  usage.prompt_tokens + usage.completion_tokens as total_tokens,
  usage.cost * 0.000000001 as cost_usd`;

const VIEWS: readonly (readonly [name: string, text: string])[] = [
  ['usage_daily', `select usage.date, ${DIMENSIONS}, ${AMOUNTS} from usage_daily as usage ${NAMES}`],
  [
    'usage_monthly',
    `select usage.month, ${DIMENSIONS}, ${AMOUNTS}
     from (
       select date_trunc('month', date::timestamp)::date as month, merchant_id, user_id, api_key, model, provider,
         sum(requests) as requests, sum(failed_requests) as failed_requests, sum(prompt_tokens) as prompt_tokens,
         sum(completion_tokens) as completion_tokens, sum(cost) as cost
       from usage_daily
       group by 1, merchant_id, user_id, api_key, model, provider
     ) as usage ${NAMES}`,
  ],
  [
    'metrics_daily',
    `select usage.date, usage.merchant_id, coalesce(${named('merchant', 'name')}, usage.merchant_id) as merchant_name,
       usage.metric_type,
       case
         when usage.metric_type = 'cost' then usage.metric_value * 0.000000001
         else usage.metric_value / power(10::numeric, coalesce(metric_types.scale, 0))
       end as value,
       case when usage.metric_type = 'cost' then 'USD' else meter.unit end as unit
     from merchant_usage as usage
     left join metric_types using (metric_type)
     left join (
       select metric_type, max(unit) as unit
       from meters
       where metric_type is not null
       group by metric_type
     ) as meter using (metric_type)
     ${nameJoin('merchant', 'merchant', 'usage.merchant_id')}`,
  ],
  [
    'events',
    `select usage.date, usage.time, usage.id, ${DIMENSIONS},
       case when usage.failed then 'failure' else 'success' end as status, usage.calls, ${AMOUNTS}, usage.properties
     from usage_events as usage ${NAMES}`,
  ],
  [
    'adjustments',
    `select usage.date, usage.id, ${DIMENSIONS}, ${AMOUNTS}, usage.reason, usage.actor, usage.created_at, usage.void_of
     from usage_adjustments as usage ${NAMES}`,
  ],
  [
    'directory',
    `select kind, id, nullif(merchant_id, '') as merchant_id, name, email, role, team, updated_at
     from directory_entries`,
  ],
  [
    'focus_1_2',
    `select
       usage.cost_usd as "BilledCost",
       coalesce(usage.provider, 'unknown') as "BillingAccountId",
       coalesce(usage.provider, 'unknown') as "BillingAccountName",
       'USD'::text as "BillingCurrency",
       (date_trunc('month', usage.date::timestamp) + interval '1 month') at time zone 'UTC' as "BillingPeriodEnd",
       date_trunc('month', usage.date::timestamp) at time zone 'UTC' as "BillingPeriodStart",
       'Usage'::text as "ChargeCategory",
       null::text as "ChargeClass",
       coalesce(usage.model, 'unknown model') || ', ' || usage.requests || ' requests' as "ChargeDescription",
       'Usage-Based'::text as "ChargeFrequency",
       (usage.date + 1)::timestamp at time zone 'UTC' as "ChargePeriodEnd",
       usage.date::timestamp at time zone 'UTC' as "ChargePeriodStart",
       usage.total_tokens as "ConsumedQuantity",
       'Tokens'::text as "ConsumedUnit",
       usage.cost_usd as "ContractedCost",
       usage.cost_usd as "EffectiveCost",
       coalesce(usage.provider, 'unknown') as "InvoiceIssuerName",
       usage.cost_usd as "ListCost",
       usage.total_tokens as "PricingQuantity",
       'Tokens'::text as "PricingUnit",
       'Standard'::text as "PricingCategory",
       coalesce(usage.provider, 'unknown') as "ProviderName",
       coalesce(usage.provider, 'unknown') as "PublisherName",
       usage.api_key as "ResourceId",
       usage.api_key_name as "ResourceName",
       'API key'::text as "ResourceType",
       'AI and Machine Learning'::text as "ServiceCategory",
       coalesce(usage.model, 'unknown') as "ServiceName",
       'Generative AI'::text as "ServiceSubcategory",
       usage.model as "SkuId",
       usage.merchant_id as "SubAccountId",
       usage.merchant_name as "SubAccountName",
       'Merchant'::text as "SubAccountType",
       jsonb_strip_nulls(jsonb_build_object('user', usage.user_id, 'team', usage.team)) as "Tags"
     from tally_bi.usage_daily as usage
     where usage.cost_usd <> 0`,
  ],
];

/** Views for BI tools, in USD and units, with names: docs/operate/bi.md promises their columns. */
export class BiViews1763856000160 implements MigrationInterface {
  name = 'BiViews1763856000160';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('create schema tally_bi');
    for (const [name, text] of VIEWS) await runner.query(`create view tally_bi.${name} as ${text}`);
    // A server where roles may not be made works without: docs/operate/bi.md has the statements for its administrator.
    await runner.query(`
      do $$
      begin
        if not exists (select from pg_roles where rolname = '${ROLE}') then
          create role ${ROLE} nologin;
        end if;
      exception
        when insufficient_privilege then raise notice 'the role ${ROLE} could not be made';
        when duplicate_object or unique_violation then null;
      end $$`);
    await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant usage on schema tally_bi to ${ROLE};
          grant select on all tables in schema tally_bi to ${ROLE};
        end if;
      end $$`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const [name] of [...VIEWS].reverse()) await runner.query(`drop view tally_bi.${name}`);
    await runner.query('drop schema tally_bi');
  }
}
