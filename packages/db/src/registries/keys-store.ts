import { createHash, randomBytes } from 'node:crypto';
import { type ApiKey, type Role, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { ApiKeyEntity, type ApiKeyRow } from '../entities/api-key.ts';
import { runSql } from '../run-sql.ts';
import { IsNull } from '../typeorm.ts';

export type NewApiKey = {
  name: string;
  role: Exclude<Role, 'service'>;
  merchantId?: string | undefined;
  teamId?: string | undefined;
  expiresAt?: Date | undefined;
  /** The id of the key that creates it. */
  by?: string;
};

export type Rotation = {
  now: Date;
  /** How long the previous secret works too; undefined: it ends now. */
  previousUntil: Date | undefined;
  /** A new expiry of the key; undefined: the expiry stays. */
  expiresAt: Date | undefined;
};

/** A key found by its secret. For a session, the key that the session stands for, until the first of both expires. */
export type FoundKey = ApiKey & {
  sessionId?: string;
  /** Set for a session of a key from the settings: the hash of that key's secret. */
  settingsHash?: string;
};

export type KeysStore = {
  /** Creates a key. Only this answer contains its secret. */
  create(key: NewApiKey): Promise<ApiKey & { key: string }>;
  /**
   * Gives a key a new secret. Throws NOT_FOUND for an unknown id, CONFLICT for a revoked key or one that stays expired.
   */
  rotate(id: string, rotation: Rotation): Promise<ApiKey & { key: string }>;
  /**
   * Returns a page of keys, oldest first, after the key `after`. `search`: a part of the name, the id, the merchant or the
   * team, in any case.
   */
  list(page: {
    includeRevoked: boolean;
    search?: string | undefined;
    limit: number;
    after?: string | undefined;
  }): Promise<ApiKey[]>;
  /** Revokes a key; revoking it again changes nothing. Throws NOT_FOUND for an unknown id. */
  revoke(id: string, by: string): Promise<ApiKey>;
  /**
   * Returns the key with this secret's hash; undefined for unknown and revoked ones. `expiresAt` is when this secret
   * expires: for the previous secret, the end of the overlap.
   */
  findByHash(hash: string): Promise<FoundKey | undefined>;
  /** Saves when keys were last used. */
  recordUse(uses: readonly { id: string; at: number }[]): Promise<void>;
};

/** Returns the SHA-256 of a key, in hex. Keys are 32 random bytes, so no slow hash is needed. */
export const hashKey = (key: string): string => createHash('sha256').update(key).digest('hex');

/** The texts of a key that a search looks in; ids contain no line ends. */
const SEARCHED = `concat_ws(E'\\n', key.name, key.id, key.merchant_id, key.team_id)`;

/** API keys, in `api_keys`. */
export function createKeysStore(dataSource: DataSource): KeysStore {
  const keys = dataSource.getRepository(ApiKeyEntity);

  async function keyOfSession(row: ApiKeyRow): Promise<FoundKey | undefined> {
    const session = { sessionId: row.id };
    if (row.parentId === null) return { ...present(row), ...session, settingsHash: row.parentHash! };
    // By its secret: a session ends with the secret that started it.
    const parent = await store.findByHash(row.parentHash!);
    if (parent?.id !== row.parentId) return undefined;
    const ends = [row.expiresAt!.toISOString(), ...(parent.expiresAt === null ? [] : [parent.expiresAt])];
    return { ...parent, ...session, expiresAt: ends.sort()[0]! };
  }

  const store: KeysStore = {
    async create({ name, role, merchantId = null, teamId = null, expiresAt = null, by = null }) {
      const key = newSecret(role);
      const row = await keys.save({
        ...UNUSED,
        hash: hashKey(key),
        name,
        role,
        merchantId,
        teamId,
        expiresAt,
        createdBy: by,
      });
      return { ...present(row), key };
    },
    async rotate(id, { now, previousUntil, expiresAt }) {
      return dataSource.transaction(async (manager) => {
        const row = await manager.findOne(ApiKeyEntity, {
          where: { id, kind: 'key' },
          lock: { mode: 'pessimistic_write' },
        });
        if (!row) throw unknownKey(id);
        if (row.revokedAt) throw new TallyError('CONFLICT', `The API key ${id} is revoked; create a new one.`);
        const end = expiresAt ?? row.expiresAt;
        if (end && end <= now)
          throw new TallyError(
            'CONFLICT',
            `The API key ${id} expired at ${end.toISOString()}; send a later expiresAt.`,
          );
        const key = newSecret(row.role);
        const rotated = await manager.save(ApiKeyEntity, {
          ...row,
          hash: hashKey(key),
          previousHash: previousUntil ? row.hash : null,
          previousExpiresAt: previousUntil ?? null,
          rotatedAt: now,
          expiresAt: end,
        });
        return { ...present(rotated), key };
      });
    },
    async list({ includeRevoked, search, limit, after }) {
      const page = keys.createQueryBuilder('key').orderBy('key.createdAt').addOrderBy('key.id').limit(limit);
      page.where({ kind: 'key', ...(includeRevoked ? {} : { revokedAt: IsNull() }) });
      if (search !== undefined) page.andWhere(`position(lower(:search) in lower(${SEARCHED})) > 0`, { search });
      // Compared in the database: here the time would lose its microseconds.
      if (after !== undefined)
        page.andWhere('(key.created_at, key.id) > (select created_at, id from api_keys where id = :after)', { after });
      return (await page.getMany()).map(present);
    },
    async revoke(id, by) {
      await keys
        .createQueryBuilder()
        .update()
        .set({ revokedAt: () => 'now()', revokedBy: by })
        .where("id = :id and kind = 'key' and revoked_at is null", { id })
        .execute();
      const row = await keys.findOneBy({ id, kind: 'key' });
      if (!row) throw unknownKey(id);
      return present(row);
    },
    async findByHash(hash) {
      const row = await keys.findOne({ where: [{ hash }, { previousHash: hash }] });
      if (!row || row.revokedAt) return undefined;
      const key = present(row);
      if (row.kind === 'session') return keyOfSession(row);
      if (row.hash === hash) return key;
      const ends = [row.previousExpiresAt!, ...(row.expiresAt ? [row.expiresAt] : [])].map(Number);
      return { ...key, expiresAt: new Date(Math.min(...ends)).toISOString() };
    },
    async recordUse(uses) {
      const values = [uses.map(({ id }) => id), uses.map(({ at }) => new Date(at))];
      await runSql(dataSource, 'record-key-use', values, z.unknown());
    },
  };
  return store;
}

const newSecret = (role: Role) => `tally_${role}_${randomBytes(32).toString('base64url')}`;

const unknownKey = (id: string) => new TallyError('NOT_FOUND', `There is no API key ${id}.`);

const UNUSED = {
  kind: 'key' as const,
  parentId: null,
  parentHash: null,
  lastUsedAt: null,
  rotatedAt: null,
  previousHash: null,
  previousExpiresAt: null,
  revokedAt: null,
  revokedBy: null,
};

function present(row: ApiKeyRow): ApiKey {
  const { id, name, role, merchantId, teamId, createdBy, revokedBy } = row;
  const timeOf = (date: Date | null) => date?.toISOString() ?? null;
  return {
    id,
    name,
    role,
    merchantId,
    teamId,
    createdAt: row.createdAt.toISOString(),
    createdBy,
    lastUsedAt: timeOf(row.lastUsedAt),
    expiresAt: timeOf(row.expiresAt),
    rotatedAt: timeOf(row.rotatedAt),
    previousSecretExpiresAt: timeOf(row.previousExpiresAt),
    revokedAt: timeOf(row.revokedAt),
    revokedBy,
  };
}
