import type { MetricFields, MetricVisibility } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

/** A custom metric; its formula is in its versions. */
export type CustomMetricRow = {
  id: string;
  /** '' is the platform. */
  merchantId: string;
  ownerId: string;
  teamId: string | null;
  visibility: MetricVisibility;
  name: string;
  version: number;
  /** A bigint, which the driver returns as text. */
  uses: string;
  lastUsedAt: Date | null;
  createdAt: Date;
  updatedAt: Date;
  removedAt: Date | null;
};

export const CustomMetricEntity = new EntitySchema<CustomMetricRow>({
  name: 'CustomMetric',
  tableName: 'custom_metric_definitions',
  columns: {
    id: { type: 'uuid', primary: true, generated: 'uuid' },
    merchantId: { name: 'merchant_id', type: 'text' },
    ownerId: { name: 'owner_id', type: 'text' },
    teamId: { name: 'team_id', type: 'text', nullable: true },
    visibility: { type: 'text' },
    name: { type: 'text' },
    version: { type: 'int' },
    uses: { type: 'bigint', default: 0 },
    lastUsedAt: { name: 'last_used_at', type: 'timestamptz', nullable: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    // Not an `updateDate`: removing a metric and counting a use are no updates.
    updatedAt: { name: 'updated_at', type: 'timestamptz', default: () => 'now()' },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
  },
});

export type CustomMetricVersionRow = {
  definitionId: string;
  version: number;
  definition: MetricFields;
  createdBy: string;
  createdAt: Date;
};

export const CustomMetricVersionEntity = new EntitySchema<CustomMetricVersionRow>({
  name: 'CustomMetricVersion',
  tableName: 'custom_metric_versions',
  columns: {
    definitionId: { name: 'definition_id', type: 'uuid', primary: true },
    version: { type: 'int', primary: true },
    definition: { type: 'jsonb' },
    createdBy: { name: 'created_by', type: 'text' },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
  },
});
