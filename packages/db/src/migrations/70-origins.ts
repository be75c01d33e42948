import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Where each row of the journal came from, so that a repeat is told from a line that is appended again after a crash. */
export class Origins1763856000070 implements MigrationInterface {
  name = 'Origins1763856000070';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table usage_events add column origin text`);
    await runner.query(
      `comment on column usage_events.origin is '<batch id>:<position> of a stream item, or direct; null: before origins'`,
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`alter table usage_events drop column origin`);
  }
}
