import type { Socket } from 'node:net';
import pg from 'pg';
import type { MigrationInterface } from 'typeorm';
import { ENTITIES } from './entities/index.ts';
import { sql } from './run-sql.ts';
import { DataSource } from './typeorm.ts';

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

/** Configures TypeORM in one place: explicit lists, exact types, bounded waits. Only who migrates needs `migrations`. */
export function createDataSource(
  url: string,
  options: DbOptions = {},
  migrations: (new () => MigrationInterface)[] = [],
): DataSource {
  return new DataSource({
    type: 'postgres',
    url,
    driver: pg,
    entities: ENTITIES,
    migrations,
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
