import type { BudgetFields, ScaleOf } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';
import type { MeterRow } from './meter.ts';

/** The definition of a meter as a budget keeps it. */
export type BudgetMeter = Pick<
  MeterRow,
  'key' | 'unit' | 'scale' | 'metricType' | 'valueProperty' | 'eventType' | 'filters'
> & { aggregation: 'SUM' | 'COUNT' };

/** A budget; empty texts in its scope match everything. `limit` is units, as text. */
export type BudgetRow = {
  id: string;
  name: string;
  merchantId: string;
  team: string;
  userId: string;
  apiKey: string;
  model: string;
  measure: NonNullable<BudgetFields['measure']> | 'meter';
  /** Null unless the measure is `meter`. */
  meter: BudgetMeter | null;
  limit: string;
  period: BudgetFields['period'];
  timeZone: string;
  enforcement: BudgetFields['enforcement'];
  whenUnavailable: BudgetFields['whenUnavailable'];
  thresholds: number[];
  /** When a threshold was added or the limit lowered last. Periods that were over by then fire no threshold. */
  thresholdsSince: Date;
  createdAt: Date;
  createdBy: string;
  removedAt: Date | null;
};

/** Returns the scale of a budget's amounts, for parseQuantity and formatQuantity with its measure. */
export const scaleOfBudget =
  ({ meter }: Pick<BudgetRow, 'meter'>): ScaleOf =>
  () =>
    meter?.scale ?? 0;

/** Returns the unit of a budget's amounts: USD, requests, tokens, or that of its meter. */
export const unitOfBudget = ({ measure, meter }: Pick<BudgetRow, 'measure' | 'meter'>): string =>
  meter ? (meter.unit ?? meter.key) : measure === 'cost' ? 'USD' : measure;

export const BudgetEntity = new EntitySchema<BudgetRow>({
  name: 'Budget',
  tableName: 'budgets',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    name: { type: 'text' },
    merchantId: { name: 'merchant_id', type: 'text' },
    team: { type: 'text' },
    userId: { name: 'user_id', type: 'text' },
    apiKey: { name: 'api_key', type: 'text' },
    model: { type: 'text' },
    measure: { type: 'text' },
    meter: { type: 'jsonb', nullable: true },
    limit: { type: 'bigint' },
    period: { type: 'text' },
    timeZone: { name: 'time_zone', type: 'text' },
    enforcement: { type: 'text' },
    whenUnavailable: { name: 'when_unavailable', type: 'text' },
    thresholds: { type: 'int', array: true },
    thresholdsSince: { name: 'thresholds_since', type: 'timestamptz' },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
  },
});
