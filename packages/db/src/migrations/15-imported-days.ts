import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * Day documents of another system that have only flat sums: those without a version (`changes`). As rows they can be
 * added up with the cubes; a day that has usage of its own is answered from that alone, so nothing counts twice.
 */
export class ImportedDays1763856000015 implements MigrationInterface {
  name = 'ImportedDays1763856000015';

  async up(runner: QueryRunner): Promise<void> {
    // Such documents can also be written by others: what is no amount is nothing, and fails no question.
    await runner.query(`
      create function document_amount(amount text) returns numeric language sql immutable parallel safe as $$
        select case when amount ~ '^\\d{1,30}(\\.\\d{1,30})?$' then amount::numeric end $$`);
    // By its stored size: a document of megabytes is not read to see that it is not empty.
    await runner.query(`
      create function document_has_keys(document jsonb) returns boolean language sql stable parallel safe as $$
        select document is not null and pg_column_size(document) > 8 $$`);
    // One row asked of an index: as a join the planner would read a whole cube.
    await runner.query(`
      create view usage_imported_days as
      select
        date, cache_status, aggregated_by_user, aggregated_by_model, aggregated_by_provider,
        (select true from usage_daily_models as counted where counted.date = document.date limit 1) is true as counted
      from daily_usage_cache as document
      where changes is null`);
    // Sums without a grouping come from the smallest one that the document has: \`whole\`.
    await runner.query(`
      create view usage_documents as
      select
        date, kind, whole,
        case when kind = 'user' then named else '' end as user_id,
        case when kind = 'model' then regexp_replace(named, '\\|[^|]*$', '') else '' end as model,
        case
          when kind = 'provider' then named
          when kind = 'model' and named like '%|%' then regexp_replace(regexp_replace(named, '^.*\\|', ''), '^unknown$', '')
          else ''
        end as provider,
        requests, 0::numeric as failed_requests, prompt_tokens, completion_tokens, cost,
        greatest(coalesce(total_tokens, 0) - prompt_tokens - completion_tokens, 0) as other_tokens,
        requests as untold_requests
      from usage_imported_days
      cross join lateral (values
        ('provider', aggregated_by_provider, document_has_keys(aggregated_by_provider)),
        ('model', aggregated_by_model,
          document_has_keys(aggregated_by_model) and not document_has_keys(aggregated_by_provider)),
        ('user', aggregated_by_user,
          document_has_keys(aggregated_by_user) and not document_has_keys(aggregated_by_model)
            and not document_has_keys(aggregated_by_provider))
      ) as grouped (kind, document, whole)
      cross join lateral jsonb_each(coalesce(document, '{}')) as entry (key, value)
      cross join lateral (
        select
          case when key = 'unknown' then '' else key end as named,
          coalesce(document_amount(value ->> 'totalRequests'), 0) as requests,
          coalesce(document_amount(coalesce(value #>> '{tokens,total}', value ->> 'totalTokens')), 0) as total_tokens,
          coalesce(document_amount(coalesce(value #>> '{tokens,prompt}', value ->> 'promptTokens')), 0) as prompt_tokens,
          coalesce(document_amount(coalesce(value #>> '{tokens,completion}', value ->> 'completionTokens')), 0)
            as completion_tokens,
          coalesce(round(document_amount(coalesce(value ->> 'cost', value ->> 'totalCost')) * 1000000000), 0) as cost
      ) as amounts
      where not counted`);
    // Answers are kept under the version of what they were read from, and these documents are read too.
    await runner.query(`
      create function count_imported_day() returns trigger language plpgsql as $$
      begin
        insert into usage_changes as known (grain, period, merchant_id)
        values ('day', coalesce(new.date, old.date), ''), ('month', date_trunc('month', coalesce(new.date, old.date))::date, '')
        on conflict (grain, period, merchant_id) do update set changes = known.changes + 1;
        return null;
      end $$`);
    const changed = {
      insert: 'new.changes is null',
      update: 'new.changes is null or old.changes is null',
      delete: 'old.changes is null',
    };
    for (const [event, condition] of Object.entries(changed)) {
      await runner.query(`
        create trigger daily_usage_cache_${event} after ${event} on daily_usage_cache
        for each row when (${condition}) execute function count_imported_day()`);
    }
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const event of ['insert', 'update', 'delete'])
      await runner.query(`drop trigger daily_usage_cache_${event} on daily_usage_cache`);
    await runner.query('drop function count_imported_day()');
    await runner.query('drop view usage_documents');
    await runner.query('drop view usage_imported_days');
    await runner.query('drop function document_has_keys(jsonb)');
    await runner.query('drop function document_amount(text)');
  }
}
