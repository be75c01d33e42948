import type { Day } from '@tally/contracts';
import type { JournalLine } from '../journal/journal-line.ts';
import { EntitySchema } from '../typeorm.ts';

export type DeadLetterRow = {
  id: string;
  merchantId: string;
  date: Day;
  entryId: string;
  line: JournalLine;
  code: string;
  message: string;
  createdAt: Date;
  attempts: number;
  resolvedAt: Date | null;
};

export const DeadLetterEntity = new EntitySchema<DeadLetterRow>({
  name: 'DeadLetter',
  tableName: 'usage_dead_letters',
  columns: {
    id: { type: 'bigint', primary: true },
    merchantId: { name: 'merchant_id', type: 'text' },
    date: { type: 'date' },
    entryId: { name: 'entry_id', type: 'text' },
    line: { type: 'jsonb' },
    code: { type: 'text' },
    message: { type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz' },
    attempts: { type: 'int', default: 1 },
    resolvedAt: { name: 'resolved_at', type: 'timestamptz', nullable: true },
  },
});
