import type { MigrationInterface, QueryRunner } from 'typeorm';

const MEASURES = 'requests, failed_requests, prompt_tokens, completion_tokens, cost';
const rolled = ['user_id', 'api_key', 'model', 'provider']
  .map((name, bit) => `case when folded & ${1 << bit} <> 0 then '(other)' else ${name} end as ${name}`)
  .join(', ');
const adjustments = (more: string) => `
  create or replace view usage_counted_adjustments as
  select date, merchant_id, ${rolled}, ${MEASURES}, created_at${more} from usage_adjustments`;

/** Voids count at the time of their event. Those made before have no time and stay at the start of their day. */
export class TimesOfVoids1763856000350 implements MigrationInterface {
  name = 'TimesOfVoids1763856000350';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('alter table usage_adjustments add column time timestamptz');
    await runner.query(adjustments(', time'));
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop view usage_counted_adjustments');
    await runner.query(adjustments(''));
    await runner.query('alter table usage_adjustments drop column time');
  }
}
