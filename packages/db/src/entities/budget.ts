import type { BudgetFields } from '@tally/contracts';
import { EntitySchema } from 'typeorm';

/** A budget; empty texts in its scope match everything. `limit` is units, as text. */
export type BudgetRow = {
  id: string;
  name: string;
  merchantId: string;
  userId: string;
  apiKey: string;
  model: string;
  measure: BudgetFields['measure'];
  limit: string;
  period: BudgetFields['period'];
  timeZone: string;
  enforcement: BudgetFields['enforcement'];
  whenUnavailable: BudgetFields['whenUnavailable'];
  thresholds: number[];
  createdAt: Date;
  createdBy: string;
  removedAt: Date | null;
};

export const BudgetEntity = new EntitySchema<BudgetRow>({
  name: 'Budget',
  tableName: 'budgets',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    name: { type: 'text' },
    merchantId: { name: 'merchant_id', type: 'text' },
    userId: { name: 'user_id', type: 'text' },
    apiKey: { name: 'api_key', type: 'text' },
    model: { type: 'text' },
    measure: { type: 'text' },
    limit: { type: 'bigint' },
    period: { type: 'text' },
    timeZone: { name: 'time_zone', type: 'text' },
    enforcement: { type: 'text' },
    whenUnavailable: { name: 'when_unavailable', type: 'text' },
    thresholds: { type: 'int', array: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
  },
});
