import type { MigrationInterface, QueryRunner } from 'typeorm';

const INDEXES = ['user', 'model', 'provider'].map((grouping) => ({
  name: `idx_daily_usage_cache_${grouping}_jsonb`,
  column: `aggregated_by_${grouping}`,
}));

/**
 * The days that have a user, model or provider are found by its name. An index of every value could not be asked that, and
 * weighed ten times as much.
 */
export class DocumentKeys1763856000028 implements MigrationInterface {
  name = 'DocumentKeys1763856000028';
  transaction = false;

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create or replace function document_keys(document jsonb) returns text[] language sql immutable parallel safe as $$
        select case jsonb_typeof(document) when 'object' then array(select jsonb_object_keys(document)) end $$`);
    for (const { name, column } of INDEXES) {
      // Made beside writers, so outside a transaction; one that was interrupted is there but not valid.
      const [found] = (await runner.query(
        `select indisvalid and position('document_keys' in pg_get_indexdef(indexrelid)) > 0 as good
         from pg_index where indexrelid = to_regclass('${name}')`,
      )) as { good: boolean }[];
      if (found?.good) continue;
      if (found) await runner.query(`drop index concurrently ${name}`);
      await runner.query(`create index concurrently ${name} on daily_usage_cache using gin (document_keys(${column}))`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const { name, column } of INDEXES) {
      await runner.query(`drop index ${name}`);
      await runner.query(`create index ${name} on daily_usage_cache using gin (${column} jsonb_path_ops)`);
    }
    await runner.query('drop function document_keys(jsonb)');
  }
}
