import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Keys that expire and are rotated, when they were last used and by whom they were made and revoked; the role member. */
export class KeyLifetimes1763856000040 implements MigrationInterface {
  name = 'KeyLifetimes1763856000040';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table api_keys
        add created_by text,
        add last_used_at timestamptz,
        add expires_at timestamptz,
        add rotated_at timestamptz,
        add previous_hash text unique,
        add previous_expires_at timestamptz,
        add revoked_by text,
        add constraint api_keys_previous check ((previous_hash is null) = (previous_expires_at is null)),
        drop constraint api_keys_role_check,
        add constraint api_keys_role_check check (role in ('producer', 'member', 'viewer', 'analyst', 'admin'))`);
    await runner.query(`create index api_keys_created on api_keys (created_at, id)`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop index api_keys_created`);
    // A member may read and record; of the older roles the one that may do less stays.
    await runner.query(`update api_keys set role = 'viewer' where role = 'member'`);
    await runner.query(`
      alter table api_keys
        drop constraint api_keys_role_check,
        add constraint api_keys_role_check check (role in ('producer', 'viewer', 'analyst', 'admin')),
        drop constraint api_keys_previous,
        drop created_by,
        drop last_used_at,
        drop expires_at,
        drop rotated_at,
        drop previous_hash,
        drop previous_expires_at,
        drop revoked_by`);
  }
}
