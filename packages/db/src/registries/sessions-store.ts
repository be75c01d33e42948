import { randomBytes } from 'node:crypto';
import type { Role } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { ApiKeyEntity } from '../entities/api-key.ts';
import { runSql } from '../run-sql.ts';
import { hashKey } from './keys-store.ts';

export type NewSession = {
  /** The id of the key it stands for; null for the admin's key of the settings, whose secret is `adminKey`. */
  keyId: string | null;
  adminKey: string | undefined;
  name: string;
  role: Role;
  merchantId: string | null;
  teamId: string | null;
  now: Date;
  expiresAt: Date;
};

export type SessionsStore = {
  /** Starts a session. Only this answer contains its secret. Undefined if the key does not exist. */
  create(session: NewSession): Promise<{ id: string; secret: string } | undefined>;
  /** Ends a session; returns whether there was one. */
  end(id: string): Promise<boolean>;
  /** Returns the name of the key, and when the session ends; undefined for an unknown id. */
  describe(id: string): Promise<{ name: string; expiresAt: Date | null } | undefined>;
};

/** Concurrent sessions of one key; a new one ends the oldest. */
const SESSIONS_PER_KEY = 100;

/** Sessions, which are rows of `api_keys`. */
export function createSessionsStore(dataSource: DataSource): SessionsStore {
  const keys = dataSource.getRepository(ApiKeyEntity);
  return {
    async create({ keyId, adminKey, name, role, merchantId, teamId, now, expiresAt }) {
      const parent = keyId === null ? undefined : await keys.findOneBy({ id: keyId, kind: 'key' });
      const parentHash = parent?.hash ?? (keyId === null && adminKey ? hashKey(adminKey) : undefined);
      if (parentHash === undefined) return undefined;
      const secret = `tally_session_${randomBytes(32).toString('base64url')}`;
      const about = [parent?.name ?? name, role, merchantId, teamId];
      const values = [hashKey(secret), keyId, parentHash, ...about, now, expiresAt, SESSIONS_PER_KEY];
      const [row] = await runSql(dataSource, 'create-session', values, z.object({ id: z.string() }));
      return { id: row!.id, secret };
    },
    async end(id) {
      const { affected } = await keys.delete({ id, kind: 'session' });
      return (affected ?? 0) > 0;
    },
    async describe(id) {
      const row = await keys.findOneBy({ id });
      return row ? { name: row.name, expiresAt: row.expiresAt } : undefined;
    },
  };
}
