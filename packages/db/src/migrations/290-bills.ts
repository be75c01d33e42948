import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Bills of providers and their lines by day, model and class. A newer bill of the same provider, account and kind is in
 * force on the days that it covers.
 */
export class Bills1763856000290 implements MigrationInterface {
  name = 'Bills1763856000290';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table bills (
        id bigint generated always as identity primary key,
        provider text not null,
        account text not null,
        kind text not null,
        format text not null,
        start_date date not null,
        end_date date not null,
        lines int not null,
        amount numeric check (amount is not null or kind = 'usage'),
        tokens numeric,
        rounding bigint not null check (rounding > 0),
        file_hash text not null,
        created_at timestamptz not null default clock_timestamp(),
        created_by text not null,
        check (start_date <= end_date)
      )`);
    await runner.query('create index bills_of_account on bills (provider, account, kind, start_date)');
    await runner.query(`
      create table bill_lines (
        bill_id bigint not null references bills (id) on delete cascade,
        date date not null,
        model text not null,
        class text not null,
        quantity numeric,
        amount numeric,
        lines int not null,
        primary key (bill_id, date, model, class)
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop table bill_lines, bills');
  }
}
