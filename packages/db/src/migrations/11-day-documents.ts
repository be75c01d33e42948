import type { MigrationInterface, QueryRunner } from 'typeorm';

const INDEXES = [
  ['idx_daily_usage_cache_date', '(date desc)'],
  ['idx_daily_usage_cache_user_jsonb', 'using gin (aggregated_by_user jsonb_path_ops)'],
  ['idx_daily_usage_cache_model_jsonb', 'using gin (aggregated_by_model jsonb_path_ops)'],
  ['idx_daily_usage_cache_provider_jsonb', 'using gin (aggregated_by_provider jsonb_path_ops)'],
  ['idx_daily_usage_cache_date_cached_at', '(date, cached_at)'],
] as const;

/** One document per day: the portable record of it. Its indexes are made beside writers, so outside a transaction. */
export class DayDocuments1763856000011 implements MigrationInterface {
  name = 'DayDocuments1763856000011';
  transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table if not exists daily_usage_cache (
        date date primary key,
        raw_data jsonb not null,
        aggregated_by_user jsonb,
        aggregated_by_model jsonb,
        aggregated_by_provider jsonb,
        cache_status text not null check (cache_status in ('complete', 'partial')),
        cached_at timestamptz not null default now(),
        changes numeric
      )`);
    await runner.query(`comment on column daily_usage_cache.changes is 'version of the day that it was made from'`);
    for (const [name, on] of INDEXES) {
      // One that was interrupted is there but not valid: it is made anew.
      const [broken] = (await runner.query(
        `select 1 from pg_index where indexrelid = to_regclass('${name}') and not indisvalid`,
      )) as unknown[];
      if (broken) await runner.query(`drop index concurrently ${name}`);
      await runner.query(`create index concurrently if not exists ${name} on daily_usage_cache ${on}`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table daily_usage_cache`);
  }
}
