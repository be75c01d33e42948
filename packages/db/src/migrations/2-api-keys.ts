import type { MigrationInterface, QueryRunner } from 'typeorm';

/** Callers: only the SHA-256 of a key is kept. */
export class ApiKeys1763856000001 implements MigrationInterface {
  name = 'ApiKeys1763856000001';

  async up(runner: QueryRunner): Promise<void> {
    await runner.query(`
      create table api_keys (
        id uuid primary key default gen_random_uuid(),
        hash text not null unique,
        name text not null,
        role text not null check (role in ('producer', 'viewer', 'analyst', 'admin')),
        merchant_id text,
        team_id text,
        created_at timestamptz not null default now(),
        revoked_at timestamptz
      )`);
  }

  async down(runner: QueryRunner): Promise<void> {
    await runner.query(`drop table api_keys`);
  }
}
