import { type Day, DIMENSIONS, MEASURES, type Measure, type Units } from '@tally/contracts';
import type { PricedKey } from '../registries/prices-store.ts';
import type { LineToAppend } from './journal-line.ts';

/** An adjustment as `adjust.sql` takes it; amounts that are absent are 0. */
export type AdjustmentToRecord = Record<(typeof DIMENSIONS)[number], string> & {
  merchant_id: string;
  id: string;
  date: Day;
  measures: Partial<Record<Measure, Units>>;
  /** Units of other metric types. */
  metrics?: Record<string, string> | undefined;
};

/** A difference of the cost of a row of what Tally priced, in nano-USD. `reratings`: how many the row has already. */
export type Rerating = PricedKey & { date: Day; reratings: number; difference: Units };

/** Re-ratings of one merchant as array literals, by the columns of `rerate.sql`. */
export type ReratingColumns = Record<(typeof RERATING_COLUMNS)[number], string>;
export const RERATING_COLUMNS = ['date', ...DIMENSIONS, 'call_size', 'reratings', 'difference'] as const;

/** Matches text that an array literal must quote. */
const QUOTED = /[\s"\\{},]|^$|^null$/i;
const ESCAPED = /["\\]/g;

/**
 * Returns the columns of a batch as array literals, in the order of the parameters of `append.sql` after its source.
 * One typed array per column costs Postgres a fraction of parsing JSON. A column without values is empty. `folded` has
 * the dimensions of each line that rollups count under `(other)`, one bit each.
 */
export function columnsOf(lines: readonly LineToAppend[], folded?: Uint8Array): string[] {
  const { plain, texts, json } = writersOf(lines);
  return [
    plain((line) => line.date),
    texts((line) => line.merchant_id),
    texts((line) => line.id),
    plain((line) => String(line.time)),
    ...DIMENSIONS.map((name) => texts((line) => line[name])),
    plain((line) => (line.failed ? 't' : undefined)),
    plain((line) => line.calls),
    ...MEASURES.map((name) => plain((line) => line[name])),
    json((line) => line.metrics),
    json((line) => line.properties),
    plain((line) => line.price),
    folded ? `{${folded.join(',')}}` : '{}',
    texts((line) => line.origin),
  ];
}

/** The columns of adjustments, in the order of the parameters of `adjust.sql` after its single values. */
export function columnsOfAdjustments(rows: readonly AdjustmentToRecord[], folded?: Uint8Array): string[] {
  const { plain, texts, json } = writersOf(rows);
  return [
    texts((row) => row.id),
    plain((row) => row.date),
    ...DIMENSIONS.map((name) => texts((row) => row[name])),
    ...MEASURES.map((name) => plain((row) => row.measures[name]?.toString())),
    json((row) => row.metrics),
    folded ? `{${folded.join(',')}}` : '{}',
  ];
}

/** The columns of re-ratings. */
export function columnsOfReratings(rows: readonly Rerating[]): ReratingColumns {
  const { texts } = writersOf(rows);
  return Object.fromEntries(
    RERATING_COLUMNS.map((name) => [name, texts((row) => String(row[name]))]),
  ) as ReratingColumns;
}

/** Writes texts as an array literal. */
export const textArray = (texts: readonly string[]): string => `{${texts.map(quoted).join(',')}}`;

/** Returns what writes a column of some lines: of values that need no quotes, of texts, and of objects as JSON. */
function writersOf<Line>(lines: readonly Line[]) {
  const plain = (of: (line: Line) => string | undefined) => arrayOf(lines, of, (text) => text);
  const texts = (of: (line: Line) => string | undefined) => arrayOf(lines, of, quoted);
  const json = (of: (line: Line) => object | undefined) =>
    texts((line) => {
      const value = of(line);
      return value && JSON.stringify(value);
    });
  return { plain, texts, json };
}

function arrayOf<Line>(
  lines: readonly Line[],
  of: (line: Line) => string | undefined,
  written: (text: string) => string,
): string {
  let found = false;
  const elements = lines.map((line) => {
    const value = of(line);
    if (value === undefined) return 'NULL';
    found = true;
    return written(value);
  });
  return found ? `{${elements.join(',')}}` : '{}';
}

function quoted(text: string): string {
  return QUOTED.test(text) ? `"${text.replace(ESCAPED, '\\$&')}"` : text;
}
