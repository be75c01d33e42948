export { Access, grants, Role } from './access.ts';
export {
  Alert,
  type AlertCondition,
  AlertKind,
  MAX_ALERTS,
  MAX_WEBHOOKS,
  Webhook,
  WebhookDelivery,
  WebhookEvent,
} from './alerts.ts';
export {
  type AnalyticsRouter,
  analytics,
  BreakdownBy,
  BreakdownRow,
  Coverage,
  DirectoryEntry,
  DirectoryKind,
  ExportQuery,
  Filters,
  GroupBy,
  Grouping,
  Interval,
  Measures,
  MeterQuery,
  MeterWindow,
  PlanPart,
  SortBy,
  TimeZone,
  Trend,
} from './analytics.ts';
export { AuditRow } from './audit.ts';
export {
  Bill,
  BillClass,
  BillKind,
  BillProvider,
  BillReason,
  BillRow,
  MAX_BILL_DAYS,
  MAX_BILL_FILE,
  MAX_BILL_LINES,
  MAX_BILLS,
  MAX_COMPARED_DAYS,
} from './bills.ts';
export {
  Budget,
  type BudgetFields,
  BudgetStatus,
  type Checked,
  MAX_BUDGETS,
  MAX_TEAM_MEMBERS,
  type Reserved,
  type ReserveRequest,
  type Settled,
} from './budgets.ts';
export {
  type Contract,
  type Endpoint,
  HTTP_METHODS,
  type HttpMethod,
  isAudited,
  isProcedure,
  MAX_ITEMS,
  merchantFieldOf,
  mutation,
  type Procedure,
  query,
  type Rest,
  type RouterOf,
  subscription,
  type TallyErrorShape,
} from './contract.ts';
export {
  AggregationMethod,
  BuiltInSource,
  ColumnType,
  MetricCost,
  MetricDefinition,
  type MetricFields,
  MetricKind,
  MetricResult,
  MetricSource,
  type MetricSourceFields,
  MetricVisibility,
} from './custom.ts';
export { readAmounts } from './day-amounts.ts';
export type { DayDocument, DayRows, DocumentRow, RejectedRow } from './days.ts';
export { type EngineRouter, engine } from './engine.ts';
export {
  type CheckedEntry,
  Dimension,
  isMissingId,
  MAX_BATCH,
  MatchedDimension,
  MerchantId,
  MetricType,
  OTHER,
  UsageEntry,
} from './entry.ts';
export { ERRORS, type ErrorCode, isTallyError, messageOf, TallyError } from './errors.ts';
export { FlushResult } from './flush.ts';
export { DeadLetter, type IngestRouter, ingest } from './ingest.ts';
export { ApiKey } from './keys.ts';
export { LITELLM_GUARDRAIL_PATH, LITELLM_PATHS, LitellmPull, LitellmReceipt } from './litellm.ts';
export {
  CALL_SIZES,
  DIMENSIONS,
  isMeasure,
  isPricedMeasure,
  MEASURES,
  type Measure,
  PRICED_MEASURES,
  PRICED_PARTS,
  type PricedMeasure,
  type PricedPart,
  RESERVED_METRICS,
  STATED_MEASURES,
} from './measures.ts';
export {
  BUILT_IN_METERS,
  EVENT_TYPE_PROPERTY,
  MAX_METERS,
  Meter,
  MeterAggregation,
  MeterDefinition,
  MeterDimension,
  MeterKey,
} from './meters.ts';
export { MAX_PRICES, Price, PriceComponent, PricedClasses, TOKEN_CLASSES, type TokenClass } from './prices.ts';
export {
  COST_DECIMALS,
  formatCost,
  formatQuantity,
  formatUnits,
  MAX_ENTRY_UNITS,
  MAX_SUM_UNITS,
  parseQuantity,
  parseSignedQuantity,
  percentOf,
  Quantity,
  type ScaleOf,
  type Units,
  unitsText,
} from './quantity.ts';
export { RealtimeType, RealtimeValue } from './realtime.ts';
export {
  EntityType,
  JobKind,
  JobName,
  JobRow,
  JobStatus,
  RollupBackfill,
  RollupGrain,
  RollupList,
  RollupPage,
  RollupRow,
  RollupRun,
} from './rollups.ts';
export { pathsOf, proceduresOf, SERVICES, type ServiceContract, type ServiceName } from './services.ts';
export { SourceRejection, SourceState } from './sources.ts';
export {
  addDays,
  countDays,
  DAY_MS,
  Day,
  DayRange,
  Drained,
  dayOf,
  eachDay,
  HOUR_MS,
  isDay,
  MINUTE_MS,
  midnightNear,
  monthOf,
  parseTime,
  QUARTER_HOUR_MS,
  quarterMonthOf,
  StoredDay,
  StoredTime,
  startOfDay,
  Time,
  timeText,
  trimesterOf,
  yearOf,
} from './time.ts';
export {
  Adjustment,
  Explanation,
  IdConflict,
  RecordResult,
  RecordWarning,
  Rejection,
  StoredEntry,
} from './usage.ts';
