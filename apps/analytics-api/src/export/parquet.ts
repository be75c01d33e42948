import { ByteWriter, ParquetWriter } from 'hyparquet-writer';
import type { Cell, Column, Row, Table } from './table.ts';

/** Rows per row group. Encoding one blocks the process for a few tens of milliseconds. */
const GROUP_ROWS = 5_000;
/** Digits of a DECIMAL of 16 bytes. */
const PRECISION = 38;
const DECIMAL_BYTES = 16;
const DAY_MS = 86_400_000;

type Element = ConstructorParameters<typeof ParquetWriter>[0]['schema'][number];

/**
 * Writes a table as Parquet, one row group after the other: text as UTF-8, days as DATE, quantities as DECIMAL(38,
 * scale) of their exact digits. Compressed with Snappy.
 */
export async function* parquet({ columns, rows }: Table): AsyncGenerator<Uint8Array> {
  const bytes = new ByteWriter();
  const schema: Element[] = [{ name: 'usage', num_children: columns.length }, ...columns.map(elementOf)];
  const writer = new ParquetWriter({ writer: bytes, schema, createdBy: 'tally' });
  const taken = () => {
    const chunk = bytes.getBytes().slice();
    // The offset continues; only the buffer is used again.
    bytes.index = 0;
    return chunk;
  };
  let group: Row[] = [];
  const write = async () => {
    const columnData = columns.map((column) => ({
      name: column.name,
      data: group.map((row) => cellValue(column, column.cell(row))),
    }));
    await writer.write({ columnData, rowGroupSize: GROUP_ROWS });
    group = [];
    return taken();
  };
  for await (const piece of rows) {
    for (const row of piece) {
      group.push(row);
      if (group.length === GROUP_ROWS) yield await write();
    }
  }
  if (group.length > 0) yield await write();
  const isEmpty = writer.row_groups.length === 0;
  await writer.finish();
  yield isEmpty ? withListOfStructs(taken()) : taken();
}

/** In a footer: 0 rows, then an empty list without a type. */
const NO_ROWS = Buffer.from([0x16, 0x00, 0x19, 0x00]);
const EMPTY_STRUCTS = 0x0c;

/** The writer omits the type of an empty list of row groups, so readers refuse it: it is a list of structs. */
function withListOfStructs(file: Uint8Array): Uint8Array {
  const at = Buffer.from(file.buffer, file.byteOffset, file.byteLength).lastIndexOf(NO_ROWS);
  if (at >= 0) file[at + NO_ROWS.length - 1] = EMPTY_STRUCTS;
  return file;
}

function elementOf({ name, type }: Column): Element {
  if (type === 'date') return { name, type: 'INT32', converted_type: 'DATE', repetition_type: 'OPTIONAL' };
  if (type === undefined) return { name, type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' };
  return {
    name,
    type: 'FIXED_LEN_BYTE_ARRAY',
    type_length: DECIMAL_BYTES,
    converted_type: 'DECIMAL',
    precision: PRECISION,
    scale: type.scale,
    repetition_type: 'OPTIONAL',
  };
}

function cellValue({ type }: Column, cell: Cell): string | number | bigint | null {
  if (cell === null) return null;
  if ('quantity' in cell) return unscaled(cell.quantity, typeof type === 'object' ? type.scale : 0);
  return type === 'date' ? Date.parse(cell.text) / DAY_MS : cell.text;
}

/** Returns the digits of a decimal with at most `scale` decimals, as a whole number. */
function unscaled(text: string, scale: number): bigint {
  const [whole, fraction = ''] = text.split('.') as [string, string?];
  return BigInt(whole + fraction.padEnd(scale, '0'));
}
