import { createHash, randomBytes } from 'node:crypto';
import { type ApiKey, type Role, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { ApiKeyEntity, type ApiKeyRow } from './entities/api-key.ts';

export type NewApiKey = { name: string; role: Exclude<Role, 'service'>; merchantId?: string; teamId?: string };

export type KeysStore = {
  /** Makes a key; its secret is in the answer and nowhere else, ever. */
  create(key: NewApiKey): Promise<ApiKey & { key: string }>;
  list(options: { includeRevoked: boolean }): Promise<ApiKey[]>;
  /** Revokes a key, once; revoking it again changes nothing. NOT_FOUND for an unknown id. */
  revoke(id: string): Promise<ApiKey>;
  /** The living key with this secret's hash; undefined for unknown and revoked ones. */
  findByHash(hash: string): Promise<ApiKey | undefined>;
};

/** SHA-256 of a key, in hex. The keys are 32 random bytes, so no slow hash is needed. */
export const hashKey = (key: string): string => createHash('sha256').update(key).digest('hex');

/** API keys, in `api_keys`. */
export function createKeysStore(dataSource: DataSource): KeysStore {
  const keys = dataSource.getRepository(ApiKeyEntity);
  return {
    async create({ name, role, merchantId = null, teamId = null }) {
      const key = `tally_${role}_${randomBytes(32).toString('base64url')}`;
      const row = await keys.save({ hash: hashKey(key), name, role, merchantId, teamId, revokedAt: null });
      return { ...present(row), key };
    },
    async list({ includeRevoked }) {
      const rows = await keys.find({ order: { createdAt: 'ASC', id: 'ASC' } });
      return rows.filter((row) => includeRevoked || row.revokedAt === null).map(present);
    },
    async revoke(id) {
      await keys
        .createQueryBuilder()
        .update()
        .set({ revokedAt: () => 'now()' })
        .where('id = :id and revoked_at is null', { id })
        .execute();
      const row = await keys.findOneBy({ id });
      if (!row) throw new TallyError('NOT_FOUND', `There is no API key ${id}.`);
      return present(row);
    },
    async findByHash(hash) {
      const row = await keys.findOneBy({ hash });
      return row && row.revokedAt === null ? present(row) : undefined;
    },
  };
}

function present(row: ApiKeyRow): ApiKey {
  const { id, name, role, merchantId, teamId, createdAt, revokedAt } = row;
  return {
    id,
    name,
    role,
    merchantId,
    teamId,
    createdAt: createdAt.toISOString(),
    revokedAt: revokedAt?.toISOString() ?? null,
  };
}
