import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Sessions of browsers: rows of `api_keys` that stand for another key, or for the admin's key of the settings. */
export class Sessions1763856000080 implements MigrationInterface {
  name = 'Sessions1763856000080';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      alter table api_keys
        add kind text not null default 'key' check (kind in ('key', 'session')),
        add parent_id uuid references api_keys (id) on delete cascade,
        add parent_hash text,
        add constraint api_keys_session check (
          case kind
            when 'session' then parent_hash is not null and expires_at is not null
            else parent_hash is null and parent_id is null
          end
        )`);
    await runner.query(`create index api_keys_sessions on api_keys (parent_hash, expires_at) where kind = 'session'`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`delete from api_keys where kind = 'session'`);
    await runner.query(`drop index api_keys_sessions`);
    await runner.query(`
      alter table api_keys
        drop constraint api_keys_session,
        drop kind,
        drop parent_id,
        drop parent_hash`);
  }
}
