import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Budgets, and what was spent of them: counted in the transaction that counts the events. `budget_list` has one row, the
 * version of the list.
 */
export class Budgets1763856000131 implements MigrationInterface {
  name = 'Budgets1763856000131';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table budgets (
        id uuid primary key default gen_random_uuid(),
        name text not null,
        merchant_id text not null,
        user_id text not null,
        api_key text not null,
        model text not null,
        measure text not null,
        "limit" bigint not null check ("limit" >= 0),
        period text not null,
        time_zone text not null,
        enforcement text not null,
        when_unavailable text not null,
        thresholds int[] not null,
        created_at timestamptz not null default clock_timestamp(),
        created_by text not null,
        removed_at timestamptz
      )`);
    await runner.query(`create index budgets_active on budgets (merchant_id) where removed_at is null`);
    await runner.query('create table budget_list (version bigint not null)');
    await runner.query('insert into budget_list values (0)');
    await runner.query(`
      create table budget_spend (
        budget_id uuid not null references budgets (id),
        period_start timestamptz not null,
        units numeric not null,
        primary key (budget_id, period_start)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table budget_spend, budget_list, budgets');
  }
}
