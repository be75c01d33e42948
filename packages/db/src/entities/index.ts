import { ApiKeyEntity } from './api-key.ts';
import { AuditEntryEntity } from './audit-entry.ts';
import { BudgetEntity } from './budget.ts';
import { DeadLetterEntity } from './dead-letter.ts';
import { MeterEntity, MeterVersionEntity } from './meter.ts';
import { PriceEntity } from './price.ts';
import { SourceRejectionEntity, SourceStateEntity } from './source.ts';

/** The tables that TypeORM reads and writes as rows: the registries. A test compares each with its migrated table. */
export const ENTITIES = [
  AuditEntryEntity,
  DeadLetterEntity,
  ApiKeyEntity,
  BudgetEntity,
  MeterEntity,
  MeterVersionEntity,
  PriceEntity,
  SourceRejectionEntity,
  SourceStateEntity,
];
