import type { MigrationInterface, QueryRunner } from 'typeorm';

/**
 * The sums of each flush by day, model and provider, until it is derived: questions about all merchants read them in place
 * of the flush's events.
 */
export class FlushSums1763856000580 implements MigrationInterface {
  name = 'FlushSums1763856000580';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table usage_flush_sums (
        flush_id bigint not null,
        date date not null,
        model text not null,
        provider text not null,
        requests numeric not null default 0,
        failed_requests numeric not null default 0,
        prompt_tokens numeric not null default 0,
        completion_tokens numeric not null default 0,
        cost numeric not null default 0,
        primary key (flush_id, date, model, provider)
      )`);
    await runner.query('alter table usage_flushes add column summed boolean not null default false');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table usage_flushes drop column summed');
    await runner.query('drop table usage_flush_sums');
  }
}
