import { createAdmission } from './admission.ts';
import { type AuditStore, createAuditStore } from './audit-store.ts';
import { type BooksStore, createBooksStore } from './books-store.ts';
import { type ChangesStore, createChangesStore } from './changes-store.ts';
import { type ConflictsStore, createConflictsStore } from './conflicts-store.ts';
import { type CorrectionsStore, createCorrectionsStore } from './corrections-store.ts';
import { type CubesStore, createCubesStore } from './cubes-store.ts';
import { type CustomStore, createCustomStore } from './custom-store.ts';
import { createDataSource, type DbOptions } from './data-source.ts';
import { createDaysStore, type DaysStore } from './days-store.ts';
import { createDeadLettersStore, type DeadLettersStore } from './dead-letters-store.ts';
import { createDerivationsStore, type DerivationsStore } from './derivations-store.ts';
import { createDirectoryStore, type DirectoryStore } from './directory-store.ts';
import { createEventsStore, type EventsStore } from './events-store.ts';
import { createHangGuard } from './hang-guard.ts';
import { createJournal, type Journal } from './journal-store.ts';
import { createKeysStore, type KeysStore } from './keys-store.ts';
import { createLitellmStore, type LitellmStore } from './litellm-store.ts';
import { createMetricSourcesStore, type MetricSourcesStore } from './metric-sources-store.ts';
import { createPartitions, type Partitions } from './partitions.ts';
import { createRealtimeStore, type RealtimeStore } from './realtime-store.ts';
import { createRollupsStore, type RollupsStore } from './rollups-store.ts';
import { createSessionsStore, type SessionsStore } from './sessions-store.ts';
import { createShardsStore, type ShardsStore } from './shards-store.ts';
import { createUsageStore, type UsageStore } from './usage-store.ts';

export type Db = {
  journal: Journal;
  shards: ShardsStore;
  partitions: Pick<Partitions, 'closable' | 'close' | 'isClosed'>;
  cubes: CubesStore;
  derivations: DerivationsStore;
  conflicts: ConflictsStore;
  corrections: CorrectionsStore;
  deadLetters: DeadLettersStore;
  books: BooksStore;
  events: EventsStore;
  usage: UsageStore;
  keys: KeysStore;
  sessions: SessionsStore;
  audit: AuditStore;
  changes: ChangesStore;
  directory: DirectoryStore;
  days: DaysStore;
  rollups: RollupsStore;
  custom: CustomStore;
  metricSources: MetricSourcesStore;
  realtime: RealtimeStore;
  litellm: LitellmStore;
  /** Asks Postgres for its clock, and whether it takes writes. */
  look(): Promise<{ at: number; readOnly: boolean }>;
  /** What of the server's settings would break the promise of a commit; empty where nothing does. */
  durabilityProblems(): Promise<string[]>;
  close(): Promise<void>;
};

/** Opens a pool on a migrated database. Close it when done. */
export async function openDb(url: string, options: DbOptions = {}): Promise<Db> {
  const { formulaPoolSize, dimensionValuesPerDay = 10_000, ...settings } = options;
  const guard = createHangGuard(url);
  const pool = { ...settings, stream: guard.stream };
  const open = (options: DbOptions) =>
    createDataSource(url, options)
      .initialize()
      .catch((error: unknown) => {
        guard.close();
        throw error;
      });
  const dataSource = await open(pool);
  // Formulas have connections of their own, so that key checks and realtime metrics never wait for one.
  const formulas = formulaPoolSize === undefined ? dataSource : await open({ ...pool, poolSize: formulaPoolSize });
  const partitions = createPartitions(dataSource);
  const admission = createAdmission(dimensionValuesPerDay);
  const journal = createJournal(dataSource, partitions, admission);
  return {
    journal,
    shards: createShardsStore(dataSource),
    partitions,
    derivations: createDerivationsStore(dataSource),
    cubes: createCubesStore(dataSource, journal, partitions),
    conflicts: createConflictsStore(dataSource),
    corrections: createCorrectionsStore(dataSource, journal, admission),
    deadLetters: createDeadLettersStore(dataSource),
    books: createBooksStore(dataSource),
    events: createEventsStore(dataSource),
    usage: createUsageStore(dataSource),
    keys: createKeysStore(dataSource),
    sessions: createSessionsStore(dataSource),
    audit: createAuditStore(dataSource),
    changes: createChangesStore(dataSource),
    directory: createDirectoryStore(dataSource),
    days: createDaysStore(dataSource),
    rollups: createRollupsStore(dataSource),
    custom: createCustomStore(dataSource, formulas),
    metricSources: createMetricSourcesStore(dataSource),
    realtime: createRealtimeStore(dataSource),
    litellm: createLitellmStore(dataSource),
    async look() {
      const [row] = await dataSource.query(
        `select extract(epoch from clock_timestamp()) * 1000 as at,
                current_setting('transaction_read_only') = 'on' as read_only`,
      );
      return { at: Number(row.at), readOnly: row.read_only };
    },
    async durabilityProblems() {
      const [row] = await dataSource.query(`select current_setting('synchronous_commit') as setting`);
      return row.setting === 'off' ? ['synchronous_commit is off: a commit could be lost'] : [];
    },
    async close() {
      guard.close();
      if (formulas !== dataSource) await formulas.destroy();
      await dataSource.destroy();
    },
  };
}
