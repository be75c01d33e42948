import type { MigrationInterface } from 'typeorm';

type Migration = new () => MigrationInterface;

/** Each migration by its name. Services need only the names: loading the rest took 90 ms of CPU of a start (ADR 680). */
const MIGRATIONS: Record<string, () => Promise<Record<string, Migration>>> = {
  JournalAndCubes1763856000000: () => import('./1-journal-and-cubes.ts'),
  ApiKeys1763856000001: () => import('./2-api-keys.ts'),
  CorrectionsAndClosings1763856000002: () => import('./3-corrections-and-closings.ts'),
  ChangesAndDirectory1763856000010: () => import('./10-changes-and-directory.ts'),
  DayDocuments1763856000011: () => import('./11-day-documents.ts'),
  Litellm1763856000012: () => import('./12-litellm.ts'),
  ImportedDays1763856000015: () => import('./15-imported-days.ts'),
  Rollups1763856000019: () => import('./20-rollups.ts'),
  CustomMetrics1763856000020: () => import('./21-custom-metrics.ts'),
  Realtime1763856000021: () => import('./22-realtime.ts'),
  RealtimeEpochs1763856000022: () => import('./23-realtime-epochs.ts'),
  RawAmounts1763856000024: () => import('./24-raw-amounts.ts'),
  YearlyCube1763856000025: () => import('./25-yearly-cube.ts'),
  UnitSums1763856000026: () => import('./26-unit-sums.ts'),
  NamesChangeAnswers1763856000027: () => import('./27-names-change-answers.ts'),
  DocumentKeys1763856000028: () => import('./28-document-keys.ts'),
  KeyLifetimes1763856000040: () => import('./40-key-lifetimes.ts'),
  AuditLog1763856000041: () => import('./41-audit-log.ts'),
  StalePeriods1763856000043: () => import('./43-stale-periods.ts'),
  MetricSources1763856000044: () => import('./44-metric-sources.ts'),
  LitellmCalls1763856000046: () => import('./46-litellm-calls.ts'),
  Shards1763856000060: () => import('./60-shards.ts'),
  Origins1763856000070: () => import('./70-origins.ts'),
  DerivedRollups1763856000071: () => import('./71-derived-rollups.ts'),
  Sessions1763856000080: () => import('./80-sessions.ts'),
  RoomForUpdates1763856000082: () => import('./82-room-for-updates.ts'),
  Identity1763856000086: () => import('./86-identity.ts'),
  AdmittedValues1763856000087: () => import('./87-admitted-values.ts'),
  Checks1763856000090: () => import('./90-checks.ts'),
  RollupRows1763856000094: () => import('./94-rollup-rows.ts'),
  Teams1763856000095: () => import('./95-teams.ts'),
  RolledUpDays1763856000100: () => import('./100-rolled-up-days.ts'),
  ChangeLog1763856000105: () => import('./105-change-log.ts'),
  Sources1763856000110: () => import('./110-sources.ts'),
  Meters1763856000120: () => import('./120-meters.ts'),
  MetricTypes1763856000121: () => import('./121-metric-types.ts'),
  Prices1763856000130: () => import('./130-prices.ts'),
  Budgets1763856000131: () => import('./131-budgets.ts'),
  Alerts1763856000132: () => import('./132-alerts.ts'),
  BiViews1763856000160: () => import('./160-bi-views.ts'),
  MeterChecks1763856000185: () => import('./185-meter-checks.ts'),
  ErasedUsers1763856000190: () => import('./190-erased-users.ts'),
  PlatformChanges1763856000200: () => import('./200-platform-changes.ts'),
  LearnedNames1763856000210: () => import('./210-learned-names.ts'),
  PricedUsage1763856000230: () => import('./230-priced-usage.ts'),
  KnownOn1763856000231: () => import('./231-known-on.ts'),
  Drift1763856000232: () => import('./232-drift.ts'),
  QuarterMonths1763856000265: () => import('./265-quarter-months.ts'),
  MeterTrimesters1763856000270: () => import('./270-meter-trimesters.ts'),
  Bills1763856000290: () => import('./290-bills.ts'),
  BudgetsOfMetersAndTeams1763856000295: () => import('./295-budgets-of-meters-and-teams.ts'),
  FocusDays1763856000320: () => import('./320-focus-days.ts'),
  TimesOfVoids1763856000350: () => import('./350-times-of-voids.ts'),
  StartsOfPeriods1763856000420: () => import('./420-starts-of-periods.ts'),
  DeliveriesByWebhook1763856000440: () => import('./440-deliveries-by-webhook.ts'),
  ThresholdsSince1763856000481: () => import('./481-thresholds-since.ts'),
  EventsOfLago1763856000500: () => import('./500-events-of-lago.ts'),
  MeterYears1763856000570: () => import('./570-meter-years.ts'),
  PeriodsOfMerchants1763856000571: () => import('./571-periods-of-merchants.ts'),
  FlushSums1763856000580: () => import('./580-flush-sums.ts'),
  BudgetsFoundByKeys1763856000615: () => import('./615-budgets-found-by-keys.ts'),
  IdsOfChanges1763856000660: () => import('./660-ids-of-changes.ts'),
  ChangesOfTeams1763856000720: () => import('./720-changes-of-teams.ts'),
  PagesOfDeliveries1763856000770: () => import('./770-pages-of-deliveries.ts'),
  NoTeamUnknown1763856000800: () => import('./800-no-team-unknown.ts'),
};

/** The names of all migrations of this release. */
export const MIGRATION_NAMES: readonly string[] = Object.keys(MIGRATIONS);

/** Loads all migrations; throws if a file does not have the one that is named here. */
export const loadMigrations = (): Promise<Migration[]> =>
  Promise.all(
    Object.entries(MIGRATIONS).map(async ([name, load]) => {
      const { [name]: migration } = await load();
      if (!migration) throw new Error(`The file of the migration ${name} does not export it`);
      return migration;
    }),
  );
