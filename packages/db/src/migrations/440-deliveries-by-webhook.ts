import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Due deliveries are taken by webhook, so that none waits for the receiver of another. */
export class DeliveriesByWebhook1763856000440 implements MigrationInterface {
  name = 'DeliveriesByWebhook1763856000440';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query('drop index webhook_deliveries_due');
    await runner.query(`
      create index webhook_deliveries_due on webhook_deliveries (webhook_id, next_attempt_at) where status = 'pending'`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query('drop index webhook_deliveries_due');
    await runner.query(`
      create index webhook_deliveries_due on webhook_deliveries (next_attempt_at) where status = 'pending'`);
  }
}
