import type { Cell, Row, Table } from './table.ts';
import { xlsx } from './xlsx.ts';

export type Format = { contentType: string; write(table: Table): AsyncIterable<Uint8Array> };

/** What a table can be written as, by the ending of the file. */
export const FORMATS: Record<string, Format> = {
  csv: { contentType: 'text/csv; charset=utf-8', write: (table) => encoded(csv(table)) },
  json: { contentType: 'application/json; charset=utf-8', write: (table) => encoded(json(table)) },
  ndjson: { contentType: 'application/x-ndjson; charset=utf-8', write: (table) => encoded(ndjson(table)) },
  xlsx: { contentType: 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet', write: xlsx },
};

/** What a spreadsheet takes for the beginning of a formula, in full width too. */
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;

/** RFC 4180 with LF. Text that a spreadsheet would run gets an apostrophe in front; quantities are left as they are. */
async function* csv({ columns, rows }: Table): AsyncGenerator<string> {
  yield `${columns.map(({ name }) => name).join(',')}\n`;
  const line = (row: Row) => columns.map(({ cell }) => csvCell(cell(row))).join(',');
  for await (const piece of rows) yield piece.map((row) => `${line(row)}\n`).join('');
}

function csvCell(cell: Cell): string {
  if (cell === null) return '';
  if ('quantity' in cell) return cell.quantity;
  const safe = FORMULA.test(cell.text) ? `'${cell.text}` : cell.text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** One array of objects, written row by row. */
async function* json({ rows }: Table): AsyncGenerator<string> {
  let first = true;
  yield '[';
  for await (const piece of rows) {
    const objects = piece.map((row) => JSON.stringify(row)).join(',\n');
    yield `${first ? '\n' : ',\n'}${objects}`;
    first = false;
  }
  yield '\n]\n';
}

async function* ndjson({ rows }: Table): AsyncGenerator<string> {
  for await (const piece of rows) yield piece.map((row) => `${JSON.stringify(row)}\n`).join('');
}

async function* encoded(texts: AsyncIterable<string>): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  for await (const text of texts) yield encoder.encode(text);
}
