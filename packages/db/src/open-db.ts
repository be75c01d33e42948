import { setTimeout as wait } from 'node:timers/promises';
import type { DataSource } from 'typeorm';
import { type CustomStore, createCustomStore } from './custom/custom-store.ts';
import { createMetricSourcesStore, type MetricSourcesStore } from './custom/metric-sources-store.ts';
import { connect, createDataSource, type DbOptions, PoolerError } from './data-source.ts';
import { createHangGuard } from './hang-guard.ts';
import { createAdmission } from './journal/admission.ts';
import { type Archive, createArchive } from './journal/archive.ts';
import { type ConflictsStore, createConflictsStore } from './journal/conflicts-store.ts';
import { type CorrectionsStore, createCorrectionsStore } from './journal/corrections-store.ts';
import { createDeadLettersStore, type DeadLettersStore } from './journal/dead-letters-store.ts';
import { createEventsStore, type EventsStore } from './journal/events-store.ts';
import { createJournal, type Journal } from './journal/journal-store.ts';
import { createPartitions, type Partitions } from './journal/partitions.ts';
import { createShardsStore, type ShardsStore } from './journal/shards-store.ts';
import { createMeterReader, type MeterReader } from './meters/meter-reader.ts';
import { createMeterRollups, type MeterRollups } from './meters/meter-rollups-store.ts';
import { createMetricTypes, type MetricTypes } from './meters/metric-types-store.ts';
import { createMeterRegistry, type MeterRegistry } from './meters/registry-store.ts';
import { type AlertsStore, createAlertsStore } from './registries/alerts-store.ts';
import { type AuditStore, createAuditStore } from './registries/audit-store.ts';
import { type BillsStore, createBillsStore } from './registries/bills-store.ts';
import { type BudgetsStore, createBudgetsStore } from './registries/budgets-store.ts';
import { createDirectoryStore, type DirectoryStore } from './registries/directory-store.ts';
import { createErasuresStore, type ErasuresStore } from './registries/erasures-store.ts';
import { createKeysStore, type KeysStore } from './registries/keys-store.ts';
import { createLitellmStore, type LitellmStore } from './registries/litellm-store.ts';
import { createPricesStore, type PricesStore } from './registries/prices-store.ts';
import { createRealtimeStore, type RealtimeStore } from './registries/realtime-store.ts';
import { createSessionsStore, type SessionsStore } from './registries/sessions-store.ts';
import { createSourcesStore, type SourcesStore } from './registries/sources-store.ts';
import { type ChangeLogStore, createChangeLogStore } from './rollups/change-log-store.ts';
import { type ChangesStore, createChangesStore } from './rollups/changes-store.ts';
import { type ChecksStore, createChecksStore } from './rollups/checks-store.ts';
import { createDaysStore, type DaysStore } from './rollups/days-store.ts';
import { createDerivationsStore, type DerivationsStore } from './rollups/derivations-store.ts';
import { createRebuildStore, type RebuildStore } from './rollups/rebuild-store.ts';
import { createRollupsStore, type RollupsStore } from './rollups/rollups-store.ts';
import { createStoredFormsStore, type StoredFormsStore } from './rollups/stored-forms-store.ts';
import { createUsageStore, type UsageStore } from './rollups/usage-store.ts';
import { sql } from './run-sql.ts';
import { isMigrated } from './schema.ts';

export type Db = {
  archive: Archive;
  journal: Journal;
  shards: ShardsStore;
  partitions: Pick<Partitions, 'closable' | 'close' | 'isClosed'>;
  rebuild: RebuildStore;
  derivations: DerivationsStore;
  conflicts: ConflictsStore;
  corrections: CorrectionsStore;
  deadLetters: DeadLettersStore;
  erasures: ErasuresStore;
  storedForms: StoredFormsStore;
  checks: ChecksStore;
  events: EventsStore;
  usage: UsageStore;
  keys: KeysStore;
  sessions: SessionsStore;
  prices: PricesStore;
  bills: BillsStore;
  budgets: BudgetsStore;
  alerts: AlertsStore;
  audit: AuditStore;
  changes: ChangesStore;
  changeLog: ChangeLogStore;
  directory: DirectoryStore;
  days: DaysStore;
  rollups: RollupsStore;
  custom: CustomStore;
  metricSources: MetricSourcesStore;
  realtime: RealtimeStore;
  litellm: LitellmStore;
  sources: SourcesStore;
  meters: MeterRegistry & MeterReader & MeterRollups;
  metricTypes: MetricTypes;
  /** Resolves when Postgres answers, on a connection of its own that no statement delays. */
  ping(): Promise<void>;
  /** Returns the clock of Postgres, whether it rejects writes, and whether a migration of this release did not run. */
  look(): Promise<{ at: number; readOnly: boolean; outdated: boolean }>;
  /** Returns server settings that would break the promise of a commit; empty if there are none. */
  durabilityProblems(): Promise<string[]>;
  close(): Promise<void>;
};

type Unavailable = {
  /** Called if Postgres is unavailable at first. */
  onUnavailable?: (error: unknown) => void;
};

/** A starting service waits this long for Postgres, then continues without it. */
const START_WAIT_MS = 2_000;
const RETRY_MS = 500;

/**
 * Opens a pool on a migrated database. Close it when done. Rejects if Postgres is unavailable; with `onUnavailable`,
 * calls that instead and keeps connecting in the background: until then all statements fail.
 */
export async function openDb(url: string, options: DbOptions & Unavailable = {}): Promise<Db> {
  const { formulaPoolSize, dimensionValuesPerDay = 10_000, onUnavailable, ...settings } = options;
  const guard = createHangGuard(url);
  const pool = { ...settings, stream: guard.stream };
  const dataSource = createDataSource(url, pool);
  // Formulas have connections of their own, so that key checks and realtime metrics never wait for one.
  const formulas =
    formulaPoolSize === undefined ? dataSource : createDataSource(url, { ...pool, poolSize: formulaPoolSize });
  const pools = [...new Set([dataSource, formulas])];
  const closing = new AbortController();
  const connecting = onUnavailable
    ? connectSoon(pools, onUnavailable, closing.signal)
    : Promise.all(pools.map((each) => connect(each)));
  await connecting.catch((error: unknown) => {
    closing.abort();
    guard.close();
    throw error;
  });
  /** A schema becomes newer only. */
  let isCurrent = false;
  const partitions = createPartitions(dataSource);
  const admission = createAdmission(dimensionValuesPerDay);
  const journal = createJournal(dataSource, partitions, admission);
  const meterRollups = createMeterRollups(dataSource, partitions, dimensionValuesPerDay);
  const days = createDaysStore(dataSource);
  return {
    archive: createArchive(dataSource),
    journal,
    shards: createShardsStore(dataSource),
    partitions,
    derivations: createDerivationsStore(dataSource),
    rebuild: createRebuildStore(dataSource, journal, partitions, meterRollups),
    conflicts: createConflictsStore(dataSource),
    corrections: createCorrectionsStore(dataSource, journal, admission, meterRollups),
    deadLetters: createDeadLettersStore(dataSource),
    erasures: createErasuresStore(dataSource, journal, days, meterRollups),
    storedForms: createStoredFormsStore(dataSource),
    checks: createChecksStore(dataSource),
    events: createEventsStore(dataSource),
    usage: createUsageStore(dataSource),
    keys: createKeysStore(dataSource),
    sessions: createSessionsStore(dataSource),
    prices: createPricesStore(dataSource),
    bills: createBillsStore(dataSource),
    budgets: createBudgetsStore(dataSource, journal),
    alerts: createAlertsStore(dataSource),
    audit: createAuditStore(dataSource),
    changes: createChangesStore(dataSource),
    changeLog: createChangeLogStore(dataSource),
    directory: createDirectoryStore(dataSource),
    days,
    rollups: createRollupsStore(dataSource),
    custom: createCustomStore(dataSource, formulas),
    metricSources: createMetricSourcesStore(dataSource),
    realtime: createRealtimeStore(dataSource),
    litellm: createLitellmStore(dataSource),
    sources: createSourcesStore(dataSource),
    metricTypes: createMetricTypes(dataSource),
    meters: { ...createMeterRegistry(dataSource), ...createMeterReader(dataSource), ...meterRollups },
    ping: guard.ping,
    async look() {
      const [row] = await dataSource.query(sql('clock'));
      isCurrent ||= await isMigrated(dataSource);
      return { at: Number(row.at), readOnly: row.read_only, outdated: !isCurrent };
    },
    async durabilityProblems() {
      const [row] = await dataSource.query(sql('commit-setting'));
      return row.setting === 'off' ? ['synchronous_commit is off: a commit could be lost'] : [];
    },
    async close() {
      closing.abort();
      guard.close();
      for (const each of pools) if (each.isInitialized) await each.destroy();
    },
  };
}

/**
 * Connects pools; returns once that is done or after `START_WAIT_MS`. Keeps trying the others until `closing`. Rejects
 * with PoolerError, which waiting does not fix.
 */
async function connectSoon(
  pools: readonly DataSource[],
  onUnavailable: (error: unknown) => void,
  closing: AbortSignal,
): Promise<void> {
  const tried = pools.map(async (pool) => {
    const open = async () => {
      await connect(pool);
      if (closing.aborted) await pool.destroy();
    };
    await open().catch((error: unknown) => {
      if (error instanceof PoolerError) throw error;
      onUnavailable(error);
      void (async () => {
        while (!pool.isInitialized && !closing.aborted) {
          await wait(RETRY_MS, undefined, { ref: false });
          await open().catch((again: unknown) => {
            if (again instanceof PoolerError) onUnavailable(again);
          });
        }
      })();
    });
  });
  await Promise.race([Promise.all(tried), wait(START_WAIT_MS, undefined, { ref: false })]);
}
