import type { MigrationInterface, QueryRunner } from 'typeorm';

/** LiteLLM as a source: the pulls and where they stopped, how each day is told, the calls around midnight. */
export class Litellm1763856000012 implements MigrationInterface {
  name = 'Litellm1763856000012';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table litellm_pulls (
        id uuid primary key default gen_random_uuid(),
        kind text not null check (kind in ('schedule', 'hand', 'day')),
        status text not null check (status in ('RUNNING', 'COMPLETED', 'FAILED')),
        range_start timestamptz not null,
        range_end timestamptz not null,
        position timestamptz not null,
        calls bigint not null default 0,
        accepted bigint not null default 0,
        duplicates bigint not null default 0,
        rejected bigint not null default 0,
        missing bigint not null default 0,
        rejections jsonb not null default '[]',
        day_sums jsonb,
        error jsonb,
        started_at timestamptz not null default clock_timestamp(),
        updated_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz
      )`);
    await runner.query(`comment on column litellm_pulls.position is 'everything before it is recorded'`);
    await runner.query(`create index litellm_pulls_started on litellm_pulls (started_at desc)`);
    await runner.query(`
      create table litellm_days (
        date date primary key,
        told_by text check (told_by in ('calls', 'sums')),
        seen jsonb,
        reported jsonb,
        differs boolean,
        error text,
        checked_at timestamptz
      )`);
    await runner.query(
      `comment on column litellm_days.told_by is 'whether its calls or its sums are counted, never both: the first says'`,
    );
    await runner.query(`
      create table litellm_midnight_calls (
        midnight date not null,
        merchant_id text not null,
        id text not null,
        time timestamptz not null,
        primary key (midnight, merchant_id, id)
      )`);
    await runner.query(
      `comment on table litellm_midnight_calls is 'the time that was first told of a call within two hours of a midnight'`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table litellm_midnight_calls`);
    await runner.query(`drop table litellm_days`);
    await runner.query(`drop table litellm_pulls`);
  }
}
