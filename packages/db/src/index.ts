export type { StoredMetric, Viewer } from './custom/custom-store.ts';
export type { BinaryOp, Expr, MetricQuery } from './custom/metric-query.ts';
export { BUILT_IN_SOURCES, type SourceShape, type ValueType } from './custom/metric-sources.ts';
export type { StoredSource } from './custom/metric-sources-store.ts';
export type { DbOptions } from './data-source.ts';
export type { AlertRow, WebhookRow } from './entities/alert.ts';
export { type BudgetMeter, type BudgetRow, scaleOfBudget, unitOfBudget } from './entities/budget.ts';
export type { MeterRow } from './entities/meter.ts';
export type { PriceRow } from './entities/price.ts';
export { isFilesLocation } from './files.ts';
export type { DimensionColumn, FoldedLine } from './journal/admission.ts';
export type { Conflict } from './journal/conflicts-store.ts';
export type { Adjustment } from './journal/corrections-store.ts';
export { originOf } from './journal/dead-letters-store.ts';
export type { DayPart, Explained } from './journal/events-store.ts';
export { type JournalLine, type LineToAppend, NO_PRICE, OLD_ORIGIN } from './journal/journal-line.ts';
export {
  type Appended,
  type BatchToAppend,
  type FlushSource,
  isRefusal,
  type Journal,
  NOTHING_APPENDED,
} from './journal/journal-store.ts';
export { columnsOfReratings, type Rerating, type ReratingColumns } from './journal/line-columns.ts';
export { dayClosed } from './journal/partitions.ts';
export { type Fence, LeaseLostError, type ShardsStore } from './journal/shards-store.ts';
export { type Listener, listen } from './listen.ts';
export type { MeterDrift } from './meters/meter-checks-store.ts';
export type { MeterValue } from './meters/meter-reader.ts';
export {
  type MetricTypes,
  RegistrySnapshot,
  StaleRegistryError,
  type ValueCheck,
} from './meters/metric-types-store.ts';
export { type StoredMeter, unknownMeter } from './meters/registry-store.ts';
export { bucketOf, quantilesOf, RELATIVE_ERROR } from './meters/sketch.ts';
export { type Db, openDb } from './open-db.ts';
export type { DeliveryOutcome, DueDelivery } from './registries/alerts-store.ts';
export type { BillDay, BillLine, BillsStore, KnownBill, NewBill, SummedBillLine } from './registries/bills-store.ts';
export {
  ActiveBudget,
  type BudgetPeriod,
  type BudgetSpend,
  type NewBudget,
  type NotedEvent,
  TeamMember,
} from './registries/budgets-store.ts';
export type { DirectoryStore, LearnedName } from './registries/directory-store.ts';
export { hashKey } from './registries/keys-store.ts';
export type {
  DaySums,
  LitellmCall,
  LitellmDay,
  LitellmStore,
  Pull,
  PullKind,
  PullLock,
  ToldBy,
} from './registries/litellm-store.ts';
export {
  type NewPrice,
  PRICED_COLUMNS,
  type PricedCell,
  type PricedColumn,
  type PricedKey,
  type PricedUnits,
  type PriceVersion,
  plain,
  type RatedCell,
  type UnitRates,
} from './registries/prices-store.ts';
export type { SavedMetric } from './registries/realtime-store.ts';
export {
  REJECTIONS_KEPT,
  type SourceCounts,
  type SourceRejection,
  type SourcesStore,
} from './registries/sources-store.ts';
export type { Change, ChangePlace } from './rollups/change-log-store.ts';
export type { DayVersion } from './rollups/checks-store.ts';
export type { DayStatus, FlatDay } from './rollups/days-store.ts';
export type {
  Period,
  PeriodToCompute,
  RollupJob,
  RollupPosition,
  RollupRow,
  RollupsStore,
  RunLease,
  StalePeriod,
} from './rollups/rollups-store.ts';
export type { Scope } from './rollups/scope.ts';
export type { FormsRow, PeriodRow } from './rollups/stored-forms-store.ts';
export type { ExportRow, GroupRow, MerchantMetric, Position, Sums, UsageReader } from './rollups/usage-reader.ts';
export type { MerchantDay } from './rows.ts';
export type { Executor } from './run-sql.ts';
export { migrate, undoMigrations } from './schema.ts';
export { sqlState } from './transactions.ts';
