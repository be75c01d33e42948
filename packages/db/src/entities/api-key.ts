import type { Role } from '@tally/contracts';
import { EntitySchema } from 'typeorm';

export type ApiKeyRow = {
  id: string;
  hash: string;
  name: string;
  role: Exclude<Role, 'service'>;
  merchantId: string | null;
  teamId: string | null;
  createdAt: Date;
  revokedAt: Date | null;
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
    revokedAt: { name: 'revoked_at', type: 'timestamptz', nullable: true },
  },
});
