import type { Day } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** A correction. Its measures are bigints, which the driver returns as text; `metrics` has the other metric types. */
export type AdjustmentRow = {
  merchantId: string;
  id: string;
  date: Day;
  userId: string;
  apiKey: string;
  model: string;
  provider: string;
  requests: string;
  failedRequests: string;
  promptTokens: string;
  completionTokens: string;
  cost: string;
  metrics: Record<string, string> | null;
  reason: string;
  actor: string;
  createdAt: Date;
  /** The dimensions that rollups count under `(other)`, one bit each. */
  folded: number | null;
  /** The derivation run of meters that included it. */
  metered: string | null;
  /** The event that it takes back. */
  voidOf: string | null;
  /** The time of that event; null: the adjustment has no time and counts at the start of its day. */
  time: Date | null;
  /** Of a re-rating: the size of the calls that it is about. */
  reratedSize: number | null;
};

export const AdjustmentEntity = new EntitySchema<AdjustmentRow>({
  name: 'Adjustment',
  tableName: 'usage_adjustments',
  columns: {
    merchantId: { name: 'merchant_id', type: 'text', primary: true },
    id: { type: 'text', primary: true },
    date: { type: 'date' },
    userId: { name: 'user_id', type: 'text' },
    apiKey: { name: 'api_key', type: 'text' },
    model: { type: 'text' },
    provider: { type: 'text' },
    requests: { type: 'bigint', default: 0 },
    failedRequests: { name: 'failed_requests', type: 'bigint', default: 0 },
    promptTokens: { name: 'prompt_tokens', type: 'bigint', default: 0 },
    completionTokens: { name: 'completion_tokens', type: 'bigint', default: 0 },
    cost: { type: 'bigint', default: 0 },
    metrics: { type: 'jsonb', nullable: true },
    reason: { type: 'text' },
    actor: { type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz', default: () => 'clock_timestamp()' },
    folded: { type: 'smallint', nullable: true },
    metered: { type: 'bigint', nullable: true },
    voidOf: { name: 'void_of', type: 'text', nullable: true },
    time: { type: 'timestamptz', nullable: true },
    reratedSize: { name: 'rerated_size', type: 'smallint', nullable: true },
  },
});
