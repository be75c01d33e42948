import { readFileSync } from 'node:fs';
import type { z } from 'zod';

/** Whatever runs a statement: the pool, or one transaction. */
export type Executor = { query(text: string, values?: readonly unknown[]): Promise<unknown> };

const SQL_FOLDER = new URL('../sql/', import.meta.url);
const loaded = new Map<string, string>();

/** Returns the text of `sql/<name>.sql`, read once. */
export function sql(name: string): string {
  const known = loaded.get(name);
  if (known !== undefined) return known;
  const text = readFileSync(new URL(`${name}.sql`, SQL_FOLDER), 'utf8');
  loaded.set(name, text);
  return text;
}

/** Runs `sql/<name>.sql` with bound values and checks every row: drivers return what they like, we do not. */
export async function runSql<Row extends z.ZodType>(
  executor: Executor,
  name: string,
  values: readonly unknown[],
  row: Row,
): Promise<z.output<Row>[]> {
  const rows = (await executor.query(sql(name), values)) as unknown[];
  return rows.map((each) => row.parse(each));
}
