import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The price list and the version with which an event was priced. Rows are never deleted: version n has what was added up to n
 * and not removed by then. `price_list` has one row, the newest version.
 */
export class Prices1763856000130 implements MigrationInterface {
  name = 'Prices1763856000130';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table prices (
        id bigint generated always as identity primary key,
        provider text not null,
        model text not null,
        meter text not null,
        merchant_id text not null,
        component text not null,
        over_prompt_tokens bigint not null,
        amount numeric(24, 12) not null check (amount >= 0),
        per bigint not null check (per > 0),
        valid_from timestamptz not null,
        valid_to timestamptz,
        source text not null,
        created_at timestamptz not null default clock_timestamp(),
        created_by text not null,
        added_in bigint not null,
        removed_in bigint
      )`);
    await runner.query(`
      create unique index prices_active
        on prices (merchant_id, model, provider, meter, component, over_prompt_tokens, valid_from)
        where removed_in is null`);
    await runner.query('create table price_list (version bigint not null)');
    await runner.query('insert into price_list values (0)');
    await runner.query('alter table usage_events add column price_version bigint');
    await runner.query(`
      comment on column usage_events.price_version is
        'the version of the price list that the cost was computed with; 0: no price was known; null: not computed'`);
    // Few rows in a price list that is complete.
    await runner.query(`
      create index usage_events_unpriced on usage_events (merchant_id, provider, model) where price_version = 0`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index usage_events_unpriced');
    await runner.query('alter table usage_events drop column price_version');
    await runner.query('drop table price_list, prices');
  }
}
