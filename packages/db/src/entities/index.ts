import { ApiKeyEntity } from './api-key.ts';
import { BudgetEntity } from './budget.ts';
import { MeterEntity, MeterVersionEntity } from './meter.ts';
import { PriceEntity } from './price.ts';
import { SourceRejectionEntity, SourceStateEntity } from './source.ts';

/** The tables that TypeORM reads and writes as rows: the registries. A test compares each with its migrated table. */
export const ENTITIES = [
  ApiKeyEntity,
  BudgetEntity,
  MeterEntity,
  MeterVersionEntity,
  PriceEntity,
  SourceRejectionEntity,
  SourceStateEntity,
];
