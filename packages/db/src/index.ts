export type { DimensionColumn, FoldedLine } from './admission.ts';
export type { DueDelivery } from './alerts-store.ts';
export type { BillLine, BillsStore, KnownBill, NewBill, SummedBillLine } from './bills-store.ts';
export type { BookRow, PeriodRow } from './books-store.ts';
export { type BudgetPeriod, type NewBudget, type NotedEvent, TeamMember } from './budgets-store.ts';
export type { Change, ChangePlace } from './change-log-store.ts';
export type { DayVersion } from './checks-store.ts';
export type { Conflict } from './conflicts-store.ts';
export type { Adjustment } from './corrections-store.ts';
export type { StoredMetric, Viewer } from './custom-store.ts';
export type { DbOptions } from './data-source.ts';
export type { DayStatus, FlatDay } from './days-store.ts';
export { originOf } from './dead-letters-store.ts';
export type { DirectoryStore, LearnedName } from './directory-store.ts';
export type { AlertRow, WebhookRow } from './entities/alert.ts';
export { type BudgetMeter, type BudgetRow, scaleOfBudget, unitOfBudget } from './entities/budget.ts';
export type { MeterRow } from './entities/meter.ts';
export type { PriceRow } from './entities/price.ts';
export type { DayPart, Explained } from './events-store.ts';
export { isFilesLocation } from './files.ts';
export { type JournalLine, type LineToAppend, NO_PRICE, OLD_ORIGIN } from './journal-line.ts';
export {
  type Appended,
  type BatchToAppend,
  type FlushSource,
  isRefusal,
  type Journal,
  NOTHING_APPENDED,
} from './journal-store.ts';
export { hashKey } from './keys-store.ts';
export { type Listener, listen } from './listen.ts';
export type {
  DaySums,
  LitellmCall,
  LitellmDay,
  LitellmStore,
  Pull,
  PullKind,
  PullLock,
  ToldBy,
} from './litellm-store.ts';
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
export type { BinaryOp, Expr, MetricQuery } from './metric-query.ts';
export { BUILT_IN_SOURCES, type SourceShape, type ValueType } from './metric-sources.ts';
export type { StoredSource } from './metric-sources-store.ts';
export { type Db, openDb } from './open-db.ts';
export { dayClosed } from './partitions.ts';
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
} from './prices-store.ts';
export type { SavedMetric } from './realtime-store.ts';
export type {
  Period,
  PeriodToCompute,
  RollupJob,
  RollupPosition,
  RollupRow,
  RollupsStore,
  RunLease,
  StalePeriod,
} from './rollups-store.ts';
export type { MerchantDay } from './rows.ts';
export type { Executor } from './run-sql.ts';
export { migrate, undoMigration } from './schema.ts';
export { type Fence, LeaseLostError, type ShardsStore } from './shards-store.ts';
export { REJECTIONS_KEPT, type SourceCounts, type SourceRejection, type SourcesStore } from './sources-store.ts';
export { sqlState } from './transactions.ts';
export type { ExportRow, GroupRow, MerchantMetric, Position, Scope, Sums, UsageReader } from './usage-store.ts';
