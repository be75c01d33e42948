import type { DirectoryKind } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** The name of a user, an API key or a merchant. */
export type DirectoryEntryRow = {
  kind: DirectoryKind;
  id: string;
  /** '' is for every merchant. */
  merchantId: string;
  name: string;
  email: string | null;
  role: string | null;
  team: string | null;
  updatedAt: Date;
  /** When the call was made that reported the name; null: somebody wrote it. */
  learnedAt: Date | null;
};

export const DirectoryEntryEntity = new EntitySchema<DirectoryEntryRow>({
  name: 'DirectoryEntry',
  tableName: 'directory_entries',
  columns: {
    kind: { type: 'text', primary: true },
    id: { type: 'text', primary: true },
    merchantId: { name: 'merchant_id', type: 'text', primary: true },
    name: { type: 'text' },
    email: { type: 'text', nullable: true },
    role: { type: 'text', nullable: true },
    team: { type: 'text', nullable: true },
    updatedAt: { name: 'updated_at', type: 'timestamptz', default: () => 'now()' },
    learnedAt: { name: 'learned_at', type: 'timestamptz', nullable: true },
  },
});
