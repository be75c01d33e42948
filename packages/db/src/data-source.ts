import type { Socket } from 'node:net';
import pg from 'pg';
import { DataSource } from 'typeorm';
import { ENTITIES } from './entities/index.ts';
import { JournalAndCubes1763856000000 } from './migrations/1-journal-and-cubes.ts';
import { ApiKeys1763856000001 } from './migrations/2-api-keys.ts';
import { CorrectionsAndClosings1763856000002 } from './migrations/3-corrections-and-closings.ts';
import { ChangesAndDirectory1763856000010 } from './migrations/10-changes-and-directory.ts';
import { DayDocuments1763856000011 } from './migrations/11-day-documents.ts';
import { Litellm1763856000012 } from './migrations/12-litellm.ts';
import { ImportedDays1763856000015 } from './migrations/15-imported-days.ts';
import { Rollups1763856000019 } from './migrations/20-rollups.ts';
import { CustomMetrics1763856000020 } from './migrations/21-custom-metrics.ts';
import { Realtime1763856000021 } from './migrations/22-realtime.ts';
import { RealtimeEpochs1763856000022 } from './migrations/23-realtime-epochs.ts';
import { RawAmounts1763856000024 } from './migrations/24-raw-amounts.ts';
import { YearlyCube1763856000025 } from './migrations/25-yearly-cube.ts';
import { UnitSums1763856000026 } from './migrations/26-unit-sums.ts';
import { NamesChangeAnswers1763856000027 } from './migrations/27-names-change-answers.ts';
import { DocumentKeys1763856000028 } from './migrations/28-document-keys.ts';
import { KeyLifetimes1763856000040 } from './migrations/40-key-lifetimes.ts';
import { AuditLog1763856000041 } from './migrations/41-audit-log.ts';
import { StalePeriods1763856000043 } from './migrations/43-stale-periods.ts';
import { MetricSources1763856000044 } from './migrations/44-metric-sources.ts';
import { LitellmCalls1763856000046 } from './migrations/46-litellm-calls.ts';
import { Shards1763856000060 } from './migrations/60-shards.ts';
import { Origins1763856000070 } from './migrations/70-origins.ts';
import { DerivedRollups1763856000071 } from './migrations/71-derived-rollups.ts';
import { Sessions1763856000080 } from './migrations/80-sessions.ts';
import { RoomForUpdates1763856000082 } from './migrations/82-room-for-updates.ts';
import { Identity1763856000086 } from './migrations/86-identity.ts';
import { AdmittedValues1763856000087 } from './migrations/87-admitted-values.ts';
import { Checks1763856000090 } from './migrations/90-checks.ts';
import { RollupRows1763856000094 } from './migrations/94-rollup-rows.ts';
import { Teams1763856000095 } from './migrations/95-teams.ts';
import { RolledUpDays1763856000100 } from './migrations/100-rolled-up-days.ts';
import { ChangeLog1763856000105 } from './migrations/105-change-log.ts';
import { Sources1763856000110 } from './migrations/110-sources.ts';
import { Meters1763856000120 } from './migrations/120-meters.ts';
import { MetricTypes1763856000121 } from './migrations/121-metric-types.ts';
import { Prices1763856000130 } from './migrations/130-prices.ts';
import { Budgets1763856000131 } from './migrations/131-budgets.ts';
import { Alerts1763856000132 } from './migrations/132-alerts.ts';
import { BiViews1763856000160 } from './migrations/160-bi-views.ts';
import { MeterChecks1763856000185 } from './migrations/185-meter-checks.ts';
import { ErasedUsers1763856000190 } from './migrations/190-erased-users.ts';
import { PlatformChanges1763856000200 } from './migrations/200-platform-changes.ts';
import { LearnedNames1763856000210 } from './migrations/210-learned-names.ts';
import { PricedUsage1763856000230 } from './migrations/230-priced-usage.ts';
import { KnownOn1763856000231 } from './migrations/231-known-on.ts';
import { Drift1763856000232 } from './migrations/232-drift.ts';
import { QuarterMonths1763856000265 } from './migrations/265-quarter-months.ts';
import { MeterTrimesters1763856000270 } from './migrations/270-meter-trimesters.ts';
import { Bills1763856000290 } from './migrations/290-bills.ts';
import { BudgetsOfMetersAndTeams1763856000295 } from './migrations/295-budgets-of-meters-and-teams.ts';
import { FocusDays1763856000320 } from './migrations/320-focus-days.ts';
import { TimesOfVoids1763856000350 } from './migrations/350-times-of-voids.ts';
import { StartsOfPeriods1763856000420 } from './migrations/420-starts-of-periods.ts';
import { DeliveriesByWebhook1763856000440 } from './migrations/440-deliveries-by-webhook.ts';
import { ThresholdsSince1763856000481 } from './migrations/481-thresholds-since.ts';
import { EventsOfLago1763856000500 } from './migrations/500-events-of-lago.ts';
import { MeterYears1763856000570 } from './migrations/570-meter-years.ts';
import { PeriodsOfMerchants1763856000571 } from './migrations/571-periods-of-merchants.ts';
import { FlushSums1763856000580 } from './migrations/580-flush-sums.ts';
import { BudgetsFoundByKeys1763856000615 } from './migrations/615-budgets-found-by-keys.ts';
import { IdsOfChanges1763856000660 } from './migrations/660-ids-of-changes.ts';
import { sql } from './run-sql.ts';

export type DbOptions = {
  /** Connections of this process. */
  poolSize?: number;
  /** Connections for formulas of custom metrics; without them, formulas share the others. */
  formulaPoolSize?: number;
  /** Milliseconds after which Postgres cancels a statement. */
  statementTimeoutMs?: number;
  /** Parallel workers per statement; default: the server's setting. */
  parallelWorkers?: number;
  /** The limit of distinct values per dimension of a merchant's day in rollups; default 10,000. */
  dimensionValuesPerDay?: number;
  /** Shown in pg_stat_activity. */
  applicationName?: string;
  /** Creates the socket of each connection; default: pg's own. */
  stream?: () => Socket;
};

/** Thrown if the settings of our connections do not reach Postgres. */
export class PoolerError extends Error {
  constructor(cause: unknown) {
    super(
      'DATABASE_URL leads to a pooler that does not pass on the settings of a connection, such as PgBouncer. Tally needs ' +
        'sessions of its own (time limits, advisory locks, LISTEN) and pools them itself: connect to Postgres directly, ' +
        'and bound the connections of a process with POSTGRES_POOL_SIZE.',
      { cause },
    );
    this.name = 'PoolerError';
  }
}

const STATEMENT_TIMEOUT_MS = 60_000;
/**
 * Settings that change what a statement means or how its values are written, as start-up options: those of a connection
 * hold, whatever the server, the database or the role sets. Every connection has them.
 */
export const SESSION = [
  // Functions and comments of ours name it, too.
  'search_path=public',
  'TimeZone=UTC',
  'DateStyle=ISO',
  'IntervalStyle=postgres',
  'bytea_output=hex',
  'extra_float_digits=1',
  'default_transaction_isolation=read\\ committed',
  'array_nulls=on',
  'transform_null_equals=off',
  'standard_conforming_strings=on',
  'quote_all_identifiers=off',
]
  .map((setting) => `-c ${setting}`)
  .join(' ');
const DATE = 1082;
const { types } = pg;

/**
 * A connection whose loss never ends the process. Between the pool and the statement that asked for it, nobody listens:
 * Postgres may end a new connection in the same packet that says it is ready. Its next statement fails then.
 */
class Connection extends pg.Client {
  constructor(config?: string | pg.ClientConfig) {
    super(config);
    this.on('error', () => {});
  }
}

/** Configures TypeORM in one place: explicit lists, exact types, bounded waits. */
export function createDataSource(url: string, options: DbOptions = {}): DataSource {
  return new DataSource({
    type: 'postgres',
    url,
    driver: pg,
    entities: ENTITIES,
    migrations: [
      JournalAndCubes1763856000000,
      ApiKeys1763856000001,
      CorrectionsAndClosings1763856000002,
      ChangesAndDirectory1763856000010,
      DayDocuments1763856000011,
      Litellm1763856000012,
      ImportedDays1763856000015,
      Rollups1763856000019,
      CustomMetrics1763856000020,
      Realtime1763856000021,
      RealtimeEpochs1763856000022,
      RawAmounts1763856000024,
      YearlyCube1763856000025,
      UnitSums1763856000026,
      NamesChangeAnswers1763856000027,
      DocumentKeys1763856000028,
      KeyLifetimes1763856000040,
      AuditLog1763856000041,
      StalePeriods1763856000043,
      MetricSources1763856000044,
      LitellmCalls1763856000046,
      Shards1763856000060,
      Origins1763856000070,
      DerivedRollups1763856000071,
      Sessions1763856000080,
      RoomForUpdates1763856000082,
      Identity1763856000086,
      AdmittedValues1763856000087,
      Checks1763856000090,
      RollupRows1763856000094,
      Teams1763856000095,
      ChangeLog1763856000105,
      RolledUpDays1763856000100,
      Meters1763856000120,
      Sources1763856000110,
      MetricTypes1763856000121,
      Prices1763856000130,
      Budgets1763856000131,
      Alerts1763856000132,
      BiViews1763856000160,
      MeterChecks1763856000185,
      ErasedUsers1763856000190,
      PlatformChanges1763856000200,
      LearnedNames1763856000210,
      PricedUsage1763856000230,
      KnownOn1763856000231,
      Drift1763856000232,
      QuarterMonths1763856000265,
      MeterTrimesters1763856000270,
      Bills1763856000290,
      BudgetsOfMetersAndTeams1763856000295,
      FocusDays1763856000320,
      TimesOfVoids1763856000350,
      StartsOfPeriods1763856000420,
      DeliveriesByWebhook1763856000440,
      ThresholdsSince1763856000481,
      EventsOfLago1763856000500,
      MeterYears1763856000570,
      PeriodsOfMerchants1763856000571,
      FlushSums1763856000580,
      BudgetsFoundByKeys1763856000615,
      IdsOfChanges1763856000660,
    ],
    // None is needed, and the role of the services may not be allowed to create one.
    installExtensions: false,
    migrationsTableName: 'tally_migrations',
    poolSize: options.poolSize ?? 10,
    connectTimeoutMS: 5_000,
    extra: {
      Client: Connection,
      application_name: options.applicationName ?? 'tally',
      ...(options.stream && { stream: options.stream }),
      options: [
        SESSION,
        // A limit of 0 is sent, too: the role may have one. pg's own option would leave it out.
        `-c statement_timeout=${options.statementTimeoutMs ?? STATEMENT_TIMEOUT_MS}`,
        // The last one is no setting of Postgres: if it arrives, so do the others.
        '-c synchronous_commit=on -c tally.session=own',
        // Memory and SSDs have no slow random reads; by the default of 4, Postgres would rather read a day of everybody.
        '-c random_page_cost=1.1',
        ...(options.parallelWorkers === undefined
          ? []
          : [`-c max_parallel_workers_per_gather=${options.parallelWorkers}`]),
      ].join(' '),
      // pg parses a date into a local Date: the wrong day west of Greenwich.
      types: {
        getTypeParser: (oid: number, format?: 'text') =>
          oid === DATE ? (text: string) => text : types.getTypeParser(oid, format),
      },
    },
  });
}

/** Opens the pool; throws PoolerError if Postgres did not receive the settings of its connections. */
export async function connect(dataSource: DataSource): Promise<DataSource> {
  await dataSource.initialize().catch(throwRefusal);
  try {
    const [found] = await dataSource.query(sql('schema/session'));
    if (found.session !== 'own') throw new PoolerError(found);
    return dataSource;
  } catch (error) {
    await dataSource.destroy();
    throw error;
  }
}

/** Throws the error of a connection that was not made: PoolerError if the settings in `options` were refused. */
export function throwRefusal(error: unknown): never {
  throw /unsupported startup parameter/.test(String(error)) ? new PoolerError(error) : error;
}
