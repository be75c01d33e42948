import type { MigrationInterface, QueryRunner } from 'typeorm';

const ROLE = 'tally_reader';

async function replaceInViews(runner: QueryRunner, pattern: RegExp, by: string): Promise<void> {
  for (const grain of ['daily', 'weekly', 'monthly']) {
    const name = `tally_sources.${grain}_metrics`;
    const [{ text }] = await runner.query(`select pg_get_viewdef('${name}'::regclass) as text`);
    const replaced = (text as string).replaceAll(pattern, by);
    if (replaced === text) throw new Error(`the view ${name} is not as it was`);
    await runner.query(`create or replace view ${name} with (security_barrier) as ${replaced}`);
  }
}

/**
 * The scale of each metric type, for ever: decimals of one unit. A type has a row since a meter declared it, or since it was
 * first counted; then its scale is 0.
 */
export class MetricTypes1763856000121 implements MigrationInterface {
  name = 'MetricTypes1763856000121';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table metric_types (
        metric_type text primary key,
        scale smallint not null check (scale between 0 and 9),
        declared_at timestamptz not null default clock_timestamp()
      )`);
    await runner.query(`
      insert into metric_types (metric_type, scale)
      select distinct metric_type, 0
      from merchant_usage
      where metric_type not in ('requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost')`);
    // Formulas of custom metrics read amounts, not units.
    await runner.query(`
      create function tally_sources.unit_of(name text) returns numeric
      language sql stable security definer set search_path = pg_catalog, public as $$
        select coalesce((select ('1e-' || scale)::numeric from metric_types where metric_type = name and scale > 0), 1)
      $$`);
    await runner.query(`
      do $$
      begin
        if exists (select from pg_roles where rolname = '${ROLE}') then
          grant execute on function tally_sources.unit_of(text) to ${ROLE};
        end if;
      end $$`);
    await replaceInViews(
      runner,
      /ELSE ((?:\w+\.)?(?:value|daily_average|previous))\b/g,
      'ELSE ($1 * tally_sources.unit_of(metric_type))',
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await replaceInViews(
      runner,
      /ELSE \(((?:\w+\.)?\w+) \* tally_sources\.unit_of\((?:\w+\.)?metric_type\)\)/g,
      'ELSE $1',
    );
    await runner.query('drop function tally_sources.unit_of(text)');
    await runner.query('drop table metric_types');
  }
}
