import type pg from 'pg';
import { type Executor, sql } from './run-sql.ts';

/** The column by whose value Citus places a row on a node. */
export const DISTRIBUTION_COLUMN = 'merchant_id';

/**
 * Tables that Citus spreads over its nodes by merchant: those that grow with events, by the first table of their
 * colocation group. A merchant's rows of a group are on one node, so whatever names the merchant runs there. Tables of
 * meters are a group of their own, since their merchants are sorted by bytes (`collate "C"`).
 */
export const COLOCATED = {
  usage_events: [
    'usage_daily',
    'usage_quarter_hours',
    'usage_daily_models',
    'usage_monthly',
    'usage_quarter_months',
    'usage_monthly_models',
    'usage_yearly',
    'merchant_usage',
    'usage_adjustments',
    'usage_journal_closings',
    'usage_priced',
    'usage_priced_closings',
    'usage_admitted_values',
    'usage_midnight_days',
  ],
  meter_days: ['meter_months', 'meter_quarters', 'meter_trimesters', 'meter_years', 'meter_values'],
} as const;
export const DISTRIBUTED: readonly string[] = Object.entries(COLOCATED).flat(2);

/** Small tables that every node has whole, since statements on distributed tables read them. */
export const REFERENCE: readonly string[] = ['usage_closed_days', 'usage_rolled_up'];

/** `table`: the one that is placed; undefined for a view or a function. */
export type DistributionStep = {
  what: string;
  table: string | undefined;
  rows: number;
  bytes: number;
  statement: string;
};

/**
 * Lists what is left to do to distribute a migrated database, in order; nothing where it is done. Changes nothing.
 * Throws where Citus is not in the database, or where somebody else is connected: what they write meanwhile could be
 * lost or wait for hours.
 */
export async function planDistribution(client: pg.Client, shards: number): Promise<DistributionStep[]> {
  const { rows: others } = await client.query<{ name: string; connections: number }>(sql('schema/connected'));
  if (others.length > 0)
    throw new Error(
      `Others are connected: ${others.map(({ name, connections }) => `${name} (${connections})`).join(', ')}. ` +
        'Stop all services and jobs first; producers may go on, their clients keep events and send them later.',
    );
  const { available, installed } = (await client.query(sql('schema/citus'))).rows[0];
  if (!installed)
    throw new Error(
      available
        ? 'Citus is not in this database. As a superuser, on every node: create extension citus.'
        : 'This server has no Citus. Install it on every node, add citus to shared_preload_libraries, then: create extension citus.',
    );
  const placed = new Set((await client.query(sql('schema/placed-tables'))).rows.map(({ name }) => name));
  const distribute = (table: string, placement: string) =>
    `select create_distributed_table('${table}', '${DISTRIBUTION_COLUMN}', ${placement})`;
  const wanted = [
    ...REFERENCE.map((table) => ({ table, statement: `select create_reference_table('${table}')` })),
    ...Object.entries(COLOCATED).flatMap(([first, others]) => [
      { table: first, statement: distribute(first, `colocate_with => 'none', shard_count => ${shards}`) },
      ...others.map((table) => ({ table, statement: distribute(table, `colocate_with => '${first}'`) })),
    ]),
  ].filter(({ table }) => !placed.has(table));
  const [view] = (await client.query(sql('schema/imported-days-joins'))).rows;
  const { rows: sizes } = await client.query(sql('schema/table-sizes'), [wanted.map(({ table }) => table)]);
  const tables = wanted.map((step, index) => ({ ...step, what: step.table, ...sizes[index] }));
  const withoutRows = (what: string, statement: string) => ({ what, statement, table: undefined, rows: 0, bytes: 0 });
  const views = view.joins ? [] : [withoutRows('view usage_imported_days', sql('schema/imported-days-view').trim())];
  // Citus copies functions that are created after it by itself, but not those that a used database has already.
  const { rows: left } = await client.query<{ name: string }>(sql('schema/functions-left'));
  const functions = left.map(({ name }) => withoutRows(name, `select create_distributed_function('${name}')`));
  return [...views, ...tables, ...functions];
}

/** Does one step. Repeating a distribution that was stopped half-way goes on with the tables that are left. */
export async function distributeTable(client: pg.Client, { statement, table }: DistributionStep): Promise<void> {
  await client.query(statement);
  if (table === undefined) return;
  // The rows are on the nodes now; what is left in the coordinator's own table would take its disk for ever.
  await client.query(`select truncate_local_data_after_distributing_table('${table}')`);
}

/** Whether the database is on Citus. */
export async function isDistributed(executor: Executor): Promise<boolean> {
  const [row] = (await executor.query(sql('schema/is-distributed'))) as { found: boolean }[];
  return row!.found;
}
