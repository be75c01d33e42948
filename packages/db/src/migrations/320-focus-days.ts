import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The day as a column of the FOCUS view: a condition on it uses an index, one on its moments reads all days. */
export class FocusDays1763856000320 implements MigrationInterface {
  name = 'FocusDays1763856000320';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create or replace view tally_bi.focus_1_2 as select
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
        jsonb_strip_nulls(jsonb_build_object('user', usage.user_id, 'team', usage.team)) as "Tags",
        usage.date as "x_Date"
      from tally_bi.usage_daily as usage
      where usage.cost_usd <> 0`);
  }

  async down(): Promise<void> {
    // The column stays: a view can only lose one by being dropped, and its grants with it.
  }
}
