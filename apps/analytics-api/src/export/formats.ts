import { parquet } from '@tally/db/parquet';
import { csvText } from './csv-text.ts';
import type { Cell, Row, Table } from './table.ts';
import { xlsx } from './xlsx.ts';

export type Format = { contentType: string; write(table: Table): AsyncIterable<Uint8Array> };

/** Encoding a row group blocks the process for a few tens of milliseconds. */
const PARQUET_GROUP_ROWS = 5_000;

/** Writers of a table, by file extension. */
export const FORMATS: Record<string, Format> = {
  csv: { contentType: 'text/csv; charset=utf-8', write: (table) => encoded(csv(table)) },
  json: { contentType: 'application/json; charset=utf-8', write: (table) => encoded(json(table)) },
  ndjson: { contentType: 'application/x-ndjson; charset=utf-8', write: (table) => encoded(ndjson(table)) },
  parquet: { contentType: 'application/vnd.apache.parquet', write: parquetFile },
  xlsx: { contentType: 'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet', write: xlsx },
};

/** RFC 4180 with LF. Neutralises text that a spreadsheet would run; leaves quantities unchanged. */
async function* csv({ columns, rows }: Table): AsyncGenerator<string> {
  yield `${columns.map(({ name }) => name).join(',')}\n`;
  const line = (row: Row) => columns.map(({ cell }) => csvCell(cell(row))).join(',');
  for await (const piece of rows) yield piece.map((row) => `${line(row)}\n`).join('');
}

function csvCell(cell: Cell): string {
  if (cell === null) return '';
  return 'quantity' in cell ? cell.quantity : csvText(cell.text);
}

/** One array of objects, written row by row. */
async function* json({ rows }: Table): AsyncGenerator<string> {
  let first = true;
  yield '[';
  for await (const piece of rows) {
    if (piece.length === 0) continue;
    const objects = piece.map((row) => JSON.stringify(row)).join(',\n');
    yield `${first ? '\n' : ',\n'}${objects}`;
    first = false;
  }
  yield '\n]\n';
}

/** One object per line. A file that was cut off ends with a line `{"error": …}`. */
async function* ndjson({ rows }: Table): AsyncGenerator<string> {
  try {
    for await (const piece of rows) yield piece.map((row) => `${JSON.stringify(row)}\n`).join('');
  } catch (error) {
    yield `${JSON.stringify({ error: { message: 'The export was cut off.', data: { code: 'UNAVAILABLE' } } })}\n`;
    throw error;
  }
}

function parquetFile({ columns, rows }: Table): AsyncIterable<Uint8Array> {
  const plain = columns.map(({ name, type = 'text' as const, cell }) => ({
    name,
    type,
    value: (row: Row) => plainCell(cell(row)),
  }));
  return parquet({ columns: plain, rows }, PARQUET_GROUP_ROWS);
}

const plainCell = (cell: Cell): string | null =>
  cell === null ? null : 'quantity' in cell ? cell.quantity : cell.text;

async function* encoded(texts: AsyncIterable<string>): AsyncGenerator<Uint8Array> {
  const encoder = new TextEncoder();
  for await (const text of texts) yield encoder.encode(text);
}
