import type { Role } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

export type ApiKeyRow = {
  id: string;
  hash: string;
  name: string;
  role: Exclude<Role, 'service'>;
  merchantId: string | null;
  teamId: string | null;
  createdAt: Date;
  createdBy: string | null;
  lastUsedAt: Date | null;
  expiresAt: Date | null;
  rotatedAt: Date | null;
  /** The secret from before the last rotation, until it expires. */
  previousHash: string | null;
  previousExpiresAt: Date | null;
  revokedAt: Date | null;
  revokedBy: string | null;
  /**
   * Set for a session: it stands for the key `parentId`, or for the admin's key of the settings with the hash
   * `parentHash`.
   */
  kind: 'key' | 'session';
  parentId: string | null;
  parentHash: string | null;
};

export const ApiKeyEntity = new EntitySchema<ApiKeyRow>({
  name: 'ApiKey',
  tableName: 'api_keys',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    hash: { type: 'text', unique: true },
    name: { type: 'text' },
    role: { type: 'text' },
    merchantId: { name: 'merchant_id', type: 'text', nullable: true },
    teamId: { name: 'team_id', type: 'text', nullable: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text', nullable: true },
    lastUsedAt: { name: 'last_used_at', type: 'timestamptz', nullable: true },
    expiresAt: { name: 'expires_at', type: 'timestamptz', nullable: true },
    rotatedAt: { name: 'rotated_at', type: 'timestamptz', nullable: true },
    previousHash: { name: 'previous_hash', type: 'text', nullable: true, unique: true },
    previousExpiresAt: { name: 'previous_expires_at', type: 'timestamptz', nullable: true },
    revokedAt: { name: 'revoked_at', type: 'timestamptz', nullable: true },
    revokedBy: { name: 'revoked_by', type: 'text', nullable: true },
    kind: { type: 'text', default: 'key' },
    parentId: { name: 'parent_id', type: 'uuid', nullable: true },
    parentHash: { name: 'parent_hash', type: 'text', nullable: true },
  },
});
