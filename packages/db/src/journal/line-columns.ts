import { DIMENSIONS, MEASURES } from '@tally/contracts';
import type { LineToAppend } from './journal-line.ts';

/** Matches text that an array literal must quote. */
const QUOTED = /[\s"\\{},]|^$|^null$/i;
const ESCAPED = /["\\]/g;

/**
 * Returns the columns of a batch as array literals, in the order of the parameters of `append.sql` after its source.
 * One typed array per column costs Postgres a fraction of parsing JSON. A column without values is empty. `folded` has
 * the dimensions of each line that rollups count under `(other)`, one bit each.
 */
export function columnsOf(lines: readonly LineToAppend[], folded?: Uint8Array): string[] {
  const texts = (of: (line: LineToAppend) => string | undefined) => arrayOf(lines, of, quoted);
  const plain = (of: (line: LineToAppend) => string | undefined) => arrayOf(lines, of, (text) => text);
  const json = (of: (line: LineToAppend) => object | undefined) =>
    texts((line) => {
      const value = of(line);
      return value && JSON.stringify(value);
    });
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

/** Writes texts as an array literal. */
export const textArray = (texts: readonly string[]): string => `{${texts.map(quoted).join(',')}}`;

function arrayOf(
  lines: readonly LineToAppend[],
  of: (line: LineToAppend) => string | undefined,
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
