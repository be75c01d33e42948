import type { BillKind, BillProvider } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** A bill of a provider. `amount` and `rounding`, the unit of its amounts, are nano-USD; numeric columns are text. */
export type BillRow = {
  id: string;
  provider: BillProvider;
  account: string;
  kind: BillKind;
  format: string;
  startDate: string;
  endDate: string;
  lines: number;
  amount: string | null;
  tokens: string | null;
  rounding: string;
  fileHash: string;
  createdAt: Date;
  createdBy: string;
};

export const BillEntity = new EntitySchema<BillRow>({
  name: 'Bill',
  tableName: 'bills',
  columns: {
    id: { type: 'bigint', primary: true, generated: 'increment' },
    provider: { type: 'text' },
    account: { type: 'text' },
    kind: { type: 'text' },
    format: { type: 'text' },
    startDate: { name: 'start_date', type: 'date' },
    endDate: { name: 'end_date', type: 'date' },
    lines: { type: 'int' },
    amount: { type: 'numeric', nullable: true },
    tokens: { type: 'numeric', nullable: true },
    rounding: { type: 'bigint' },
    fileHash: { name: 'file_hash', type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
  },
});
