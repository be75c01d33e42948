import type { MeterAggregation } from '@tally/contracts';
import { EntitySchema } from '../typeorm.ts';

export type MeterRow = {
  id: number;
  key: string;
  /** '': for every merchant. */
  merchantId: string;
  name: string;
  unit: string | null;
  scale: number;
  aggregation: MeterAggregation;
  metricType: string | null;
  valueProperty: string | null;
  eventType: string | null;
  filters: Record<string, string[]>;
  dimensions: string[];
  version: number;
  createdAt: Date;
  createdBy: string;
  updatedAt: Date;
  /** The derivation run after which it was created: earlier events are its history. */
  createdRun: string;
  historyFrom: string | null;
  removedAt: Date | null;
  /** True once the rollups of a removed meter are deleted. */
  purged: boolean;
};

export type MeterVersionRow = {
  meterId: number;
  version: number;
  name: string;
  unit: string | null;
  createdAt: Date;
  createdBy: string;
};

export const MeterEntity = new EntitySchema<MeterRow>({
  name: 'Meter',
  tableName: 'meters',
  columns: {
    id: { type: 'int', primary: true, generated: 'increment' },
    key: { type: 'text' },
    merchantId: { name: 'merchant_id', type: 'text', default: '' },
    name: { type: 'text' },
    unit: { type: 'text', nullable: true },
    scale: { type: 'smallint' },
    aggregation: { type: 'text' },
    metricType: { name: 'metric_type', type: 'text', nullable: true },
    valueProperty: { name: 'value_property', type: 'text', nullable: true },
    eventType: { name: 'event_type', type: 'text', nullable: true },
    filters: { type: 'jsonb' },
    dimensions: { type: 'text', array: true },
    version: { type: 'int', default: 1 },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
    updatedAt: { name: 'updated_at', type: 'timestamptz', updateDate: true },
    createdRun: { name: 'created_run', type: 'bigint' },
    historyFrom: { name: 'history_from', type: 'date', nullable: true },
    removedAt: { name: 'removed_at', type: 'timestamptz', nullable: true },
    purged: { type: 'boolean', default: false },
  },
});

export const MeterVersionEntity = new EntitySchema<MeterVersionRow>({
  name: 'MeterVersion',
  tableName: 'meter_versions',
  columns: {
    meterId: { name: 'meter_id', type: 'int', primary: true },
    version: { type: 'int', primary: true },
    name: { type: 'text' },
    unit: { type: 'text', nullable: true },
    createdAt: { name: 'created_at', type: 'timestamptz', createDate: true },
    createdBy: { name: 'created_by', type: 'text' },
  },
});
