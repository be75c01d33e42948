import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = 'requests, failed_requests, prompt_tokens, completion_tokens, cost';
const rolled = ['user_id', 'api_key', 'model', 'provider']
  .map((name, bit) => `case when folded & ${1 << bit} <> 0 then '(other)' else ${name} end as ${name}`)
  .join(', ');
const adjustments = (more: string) => `
  create or replace view usage_counted_adjustments as
  select date, merchant_id, ${rolled}, ${MEASURES}${more} from usage_adjustments`;

/**
 * What an answer as of an earlier moment needs: when an adjustment was made, and when a day whose events were dropped
 * was last written to. Days that were closed before count as written to until then.
 */
export class KnownOn1763856000231 implements MigrationInterface {
  name = 'KnownOn1763856000231';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(adjustments(', created_at'));
    await runner.query(
      'alter table usage_closed_days add column written_at timestamptz not null default clock_timestamp()',
    );
    await runner.query('update usage_closed_days set written_at = closed_at');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table usage_closed_days drop column written_at');
    await runner.query('drop view usage_counted_adjustments');
    await runner.query(adjustments(''));
  }
}
