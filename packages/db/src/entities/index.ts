import { AdjustmentEntity } from './adjustment.ts';
import { AlertEntity, WebhookEntity } from './alert.ts';
import { ApiKeyEntity } from './api-key.ts';
import { AuditEntryEntity } from './audit-entry.ts';
import { BillEntity } from './bill.ts';
import { BudgetEntity } from './budget.ts';
import { CustomMetricEntity, CustomMetricVersionEntity } from './custom-metric.ts';
import { DeadLetterEntity } from './dead-letter.ts';
import { DirectoryEntryEntity } from './directory-entry.ts';
import { LitellmDayEntity, LitellmPullEntity } from './litellm.ts';
import { MeterEntity, MeterVersionEntity } from './meter.ts';
import { MetricSourceEntity } from './metric-source.ts';
import { PriceEntity } from './price.ts';
import { RollupJobEntity } from './rollup-job.ts';
import { SourceRejectionEntity, SourceStateEntity } from './source.ts';

/** The tables that TypeORM reads and writes as rows: the registries. A test compares each with its migrated table. */
export const ENTITIES = [
  AdjustmentEntity,
  AlertEntity,
  ApiKeyEntity,
  AuditEntryEntity,
  BillEntity,
  BudgetEntity,
  CustomMetricEntity,
  CustomMetricVersionEntity,
  DeadLetterEntity,
  DirectoryEntryEntity,
  LitellmDayEntity,
  LitellmPullEntity,
  MeterEntity,
  MeterVersionEntity,
  MetricSourceEntity,
  PriceEntity,
  RollupJobEntity,
  SourceRejectionEntity,
  SourceStateEntity,
  WebhookEntity,
];
