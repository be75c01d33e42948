import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Pages of deliveries of one state, or of one webhook, do not read all others. */
export class PagesOfDeliveries1763856000770 implements MigrationInterface {
  name = 'PagesOfDeliveries1763856000770';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(
      'create index webhook_deliveries_states on webhook_deliveries (status, created_at desc, id desc)',
    );
    await runner.query(
      'create index webhook_deliveries_webhooks on webhook_deliveries (webhook_id, created_at desc, id desc)',
    );
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index webhook_deliveries_webhooks');
    await runner.query('drop index webhook_deliveries_states');
  }
}
