import type { MigrationInterface, QueryRunner } from 'typeorm';

/** A team `unknown` had a row of its own in breakdowns, beside that of usage without a team. */
export class NoTeamUnknown1763856000800 implements MigrationInterface {
  name = 'NoTeamUnknown1763856000800';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`update directory_entries set team = null where team = 'unknown'`);
  }

  async down(): Promise<void> {}
}
