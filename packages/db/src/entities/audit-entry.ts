import type { Role } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

export type AuditEntryRow = {
  id: string;
  at: Date;
  service: string;
  action: string;
  actor: string;
  role: Role;
  actorMerchantId: string | null;
  merchantIds: string[];
  targetId: string | null;
  input: Record<string, unknown>;
  outcome: string | null;
  durationMs: number | null;
};

export const AuditEntryEntity = new EntitySchema<AuditEntryRow>({
  name: 'AuditEntry',
  tableName: 'audit_log',
  columns: {
    id: { type: 'bigint', primary: true },
    at: { type: 'timestamptz' },
    service: { type: 'text' },
    action: { type: 'text' },
    actor: { type: 'text' },
    role: { type: 'text' },
    actorMerchantId: { name: 'actor_merchant_id', type: 'text', nullable: true },
    merchantIds: { name: 'merchant_ids', type: 'text', array: true },
    targetId: { name: 'target_id', type: 'text', nullable: true },
    input: { type: 'jsonb' },
    outcome: { type: 'text', nullable: true },
    durationMs: { name: 'duration_ms', type: 'int', nullable: true },
  },
});
