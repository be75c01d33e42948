import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLE = 'tally_reader';

/** Views of the host application as data sources of custom metrics, and PERCENTILE_DISC by exact fractions. */
export class MetricSources1763856000044 implements MigrationInterface {
  name = 'MetricSources1763856000044';

  async up(runner: QueryRunner): Promise<void> {
    // The server's own percentile_disc takes the fraction as a double: 0.07 of 100 rows is then the 8th.
    for (const type of ['numeric', 'bigint'])
      await runner.query(`
        create function tally_sources.percentile_disc(sorted ${type}[], fraction numeric) returns numeric
        language sql immutable strict parallel safe as $$
          select sorted[greatest(1, ceil(fraction * cardinality(sorted)))::int]::numeric
        $$`);
    await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant execute on all functions in schema tally_sources to ${ROLE};
        end if;
      end $$`);
    await runner.query(`
      create table custom_metric_sources (
        name text primary key,
        view text not null,
        columns jsonb not null,
        merchant_column text,
        date_column text not null,
        date_type text not null check (date_type in ('date', 'timestamp', 'timestamptz')),
        created_at timestamptz not null default now()
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table custom_metric_sources`);
    for (const type of ['numeric', 'bigint'])
      await runner.query(`drop function tally_sources.percentile_disc(${type}[], numeric)`);
  }
}
