import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Tables whose rows are updated by nearly every flush, and rollups whose rows are updated while their period lasts. */
const FILL = {
  50: ['merchant_usage', 'usage_changes', 'usage_touched_days', 'usage_platform_daily', 'usage_platform_monthly'],
  80: [
    'usage_daily',
    'usage_quarter_hours',
    'usage_daily_models',
    'usage_monthly',
    'usage_monthly_models',
    'usage_yearly',
    'usage_platform_users',
  ],
};

/** Leaves room in pages for the next version of a row: an update that stays in its page writes to no index. */
export class RoomForUpdates1763856000082 implements MigrationInterface {
  name = 'RoomForUpdates1763856000082';

  async up(runner: QueryRunner): Promise<void> {
    for (const [share, tables] of Object.entries(FILL))
      for (const table of tables) await runner.query(`alter table ${table} set (fillfactor = ${share})`);
  }

  async down(runner: QueryRunner): Promise<void> {
    for (const table of Object.values(FILL).flat()) await runner.query(`alter table ${table} reset (fillfactor)`);
  }
}
