import type { PriceComponent } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** A price; an empty text matches everything. bigint and numeric columns are text. */
export type PriceRow = {
  id: string;
  provider: string;
  model: string;
  meter: string;
  merchantId: string;
  component: PriceComponent;
  overPromptTokens: string;
  amount: string;
  per: string;
  validFrom: Date;
  validTo: Date | null;
  source: string;
  createdAt: Date;
  createdBy: string;
  addedIn: string;
  removedIn: string | null;
};

export const PriceEntity = new EntitySchema<PriceRow>({
  name: 'Price',
  tableName: 'prices',
  columns: {
    id: { type: 'bigint', primary: true, generated: 'increment' },
    provider: { type: 'text' },
    model: { type: 'text' },
    meter: { type: 'text' },
    merchantId: { name: 'merchant_id', type: 'text' },
    component: { type: 'text' },
    overPromptTokens: { name: 'over_prompt_tokens', type: 'bigint' },
    amount: { type: 'numeric', precision: 24, scale: 12 },
    per: { type: 'bigint' },
    validFrom: { name: 'valid_from', type: 'timestamptz' },
    validTo: { name: 'valid_to', type: 'timestamptz', nullable: true },
    source: { type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    addedIn: { name: 'added_in', type: 'bigint' },
    removedIn: { name: 'removed_in', type: 'bigint', nullable: true },
  },
});
