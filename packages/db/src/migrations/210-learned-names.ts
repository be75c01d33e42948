import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Names that a source reported, beside those that somebody wrote: these stay when a source reports others. */
export class LearnedNames1763856000210 implements MigrationInterface {
  name = 'LearnedNames1763856000210';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('alter table directory_entries add learned_at timestamptz');
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('alter table directory_entries drop learned_at');
  }
}
