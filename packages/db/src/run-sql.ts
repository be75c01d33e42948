import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import type { DataSource, QueryRunner } from 'typeorm';
import type { z } from 'zod';
import { QueryFailedError } from './typeorm.ts';

/** Anything that runs a statement: the pool, or one transaction. */
export type Executor = { query(text: string, values?: readonly unknown[]): Promise<unknown> };

/** Adds a value to a statement. Returns its place in the text. */
export type Bind = (value: unknown) => string;

/** Returns the values of a composed statement, none yet, and the function that adds one. */
export function bindings(): { bind: Bind; values: unknown[] } {
  const values: unknown[] = [];
  return { values, bind: (value) => `$${values.push(value)}` };
}

const SQL_FOLDER = new URL('../sql/', import.meta.url);
let statements: ReadonlyMap<string, string> | undefined;

/**
 * Returns the text of `sql/<name>.sql`. The first call reads all files, so a process keeps the statements it started
 * with.
 */
export function sql(name: string): string {
  statements ??= statementsIn(fileURLToPath(SQL_FOLDER));
  const text = statements.get(name);
  if (text === undefined) throw new Error(`There is no statement sql/${name}.sql.`);
  return text;
}

/** Reads all statements of a folder, by their path in it without `.sql`. */
export function statementsIn(folder: string): Map<string, string> {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.sql'));
  return new Map(files.map((file) => [file.slice(0, -'.sql'.length), readFileSync(join(folder, file), 'utf8')]));
}

/** Runs `sql/<name>.sql` with bound values and checks every row, since drivers guarantee no types. */
export async function runSql<Row extends z.ZodType>(
  executor: Executor,
  name: string,
  values: readonly unknown[],
  row: Row,
): Promise<z.output<Row>[]> {
  const rows = (await executor.query(sql(name), values)) as unknown[];
  return rows.map((each) => row.parse(each));
}

/**
 * Does the same as runSql for a small statement that runs for most requests: each connection plans it once, and the
 * pool below TypeORM runs it, since TypeORM takes longer than such a statement itself.
 */
export async function runPrepared<Row extends z.ZodType>(
  dataSource: DataSource,
  name: string,
  values: readonly unknown[],
  row: Row,
): Promise<z.output<Row>[]> {
  const { master: pool } = dataSource.driver as unknown as { master?: pg.Pool };
  // Before its first connection TypeORM has no pool, and throws.
  if (!pool) return runSql(dataSource, name, values, row);
  const { rows } = await pool.query({ name, text: sql(name), values: [...values] });
  return rows.map((each) => row.parse(each));
}

/**
 * Does the same as runSql in a transaction, for a statement whose planning takes as long as its work: each connection
 * plans it once. `transaction` is a query runner of TypeORM; errors are those of TypeORM, too.
 */
export async function runPlannedOnce<Row extends z.ZodType>(
  transaction: Executor,
  name: string,
  values: readonly unknown[],
  row: Row,
): Promise<z.output<Row>[]> {
  const connection: pg.ClientBase = await (transaction as QueryRunner).connect();
  const text = sql(name);
  const { rows } = await connection.query({ name, text, values: [...values] }).catch((error: Error) => {
    throw new QueryFailedError(text, [...values], error);
  });
  return rows.map((each) => row.parse(each));
}
