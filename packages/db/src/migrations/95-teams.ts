import type { MigrationInterface, QueryRunner } from 'typeorm';

/** The team of a user or an API key, which usage is summed by. */
export class Teams1763856000095 implements MigrationInterface {
  name = 'Teams1763856000095';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('alter table directory_entries add team text');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table directory_entries drop team');
  }
}
