import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Who did what: one row per administrative mutation of any service. */
export class AuditLog1763856000041 implements MigrationInterface {
  name = 'AuditLog1763856000041';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table audit_log (
        id bigint generated always as identity primary key,
        at timestamptz not null default clock_timestamp(),
        service text not null,
        action text not null,
        actor text not null,
        role text not null,
        actor_merchant_id text,
        merchant_ids text[] not null,
        target_id text,
        input jsonb not null,
        outcome text,
        duration_ms integer
      )`);
    await runner.query(`comment on column audit_log.outcome is 'null: running, or not recorded'`);
    await runner.query(`create index audit_log_at on audit_log (at)`);
    await runner.query(`create index audit_log_actor on audit_log (actor, id)`);
    await runner.query(`create index audit_log_action on audit_log (action, id)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table audit_log`);
  }
}
