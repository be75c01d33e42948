import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { z } from 'zod';

/** Anything that runs a statement: the pool, or one transaction. */
export type Executor = { query(text: string, values?: readonly unknown[]): Promise<unknown> };

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
