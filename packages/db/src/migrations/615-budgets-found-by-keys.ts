import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Events find budgets by equality of a key, one for each way to find some, so that thousands of budgets cost little. */
export class BudgetsFoundByKeys1763856000615 implements MigrationInterface {
  name = 'BudgetsFoundByKeys1763856000615';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create function budget_way(merchant_id text, user_id text, api_key text, team text, model text) returns text
      language sql immutable parallel safe as $$
        select case when merchant_id = '' then 'all' else 'own' end || case
          when user_id <> '' then ' user' when api_key <> '' then ' key' when team <> '' then ' team'
          when model <> '' then ' model' else '' end
      $$`);
    await runner.query(`
      create function budget_key(way text, merchant_id text, user_id text, api_key text, team text, model text)
      returns text language sql immutable parallel safe as $$
        select way || E'\\n' || case when starts_with(way, 'own') then merchant_id else '' end || E'\\n'
          || case split_part(way, ' ', 2)
            when 'user' then user_id when 'key' then api_key when 'team' then team when 'model' then model else '' end
      $$`);
    await runner.query(`
      create index budgets_found_by on budgets (budget_key(budget_way(merchant_id, user_id, api_key, team, model),
        merchant_id, user_id, api_key, team, model)) where removed_at is null`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index budgets_found_by');
    await runner.query('drop function budget_key(text, text, text, text, text, text)');
    await runner.query('drop function budget_way(text, text, text, text, text)');
  }
}
