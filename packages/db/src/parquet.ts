import { DAY_MS } from '@tally/contracts';
import { ByteWriter, ParquetWriter } from 'hyparquet-writer';

/** Bounds a row group, and with it the memory, where rows are large. Counts the characters of all cells. */
const GROUP_CHARACTERS = 8 * 2 ** 20;
/** Digits of a DECIMAL of 16 bytes. */
const PRECISION = 38;
const DECIMAL_BYTES = 16;

/**
 * How a column is stored, and what its values look like: text; `date`: YYYY-MM-DD; `micros`: microseconds since 1970;
 * `integer`: a whole number of 64 bits; `scale`: a decimal with at most as many decimals.
 */
export type ParquetType = 'text' | 'date' | 'micros' | 'integer' | { scale: number };
export type ParquetColumn<Row> = { name: string; type: ParquetType; value(row: Row): string | null };
export type ParquetTable<Row> = { columns: readonly ParquetColumn<Row>[]; rows: AsyncIterable<readonly Row[]> };

type Element = ConstructorParameters<typeof ParquetWriter>[0]['schema'][number];

/**
 * Writes a table as Parquet, one row group of at most `groupRows` rows after the other, compressed with Snappy. Decimals
 * are DECIMAL(38, scale) of their exact digits. Throws for a decimal that does not fit: nothing is rounded.
 */
export async function* parquet<Row>(
  { columns, rows }: ParquetTable<Row>,
  groupRows: number,
): AsyncGenerator<Uint8Array> {
  const bytes = new ByteWriter();
  const schema: Element[] = [{ name: 'usage', num_children: columns.length }, ...columns.map(elementOf)];
  const writer = new ParquetWriter({ writer: bytes, schema, createdBy: 'tally' });
  const taken = () => {
    const chunk = bytes.getBytes().slice();
    // The offset continues; only the buffer is used again.
    bytes.index = 0;
    return chunk;
  };
  let group: (string | null)[][] = [];
  let characters = 0;
  const write = async () => {
    const columnData = columns.map((column, index) => ({
      name: column.name,
      data: group.map((cells) => stored(column, cells[index]!)),
    }));
    await writer.write({ columnData, rowGroupSize: groupRows });
    group = [];
    characters = 0;
    return taken();
  };
  for await (const piece of rows) {
    for (const row of piece) {
      const cells = columns.map((column) => column.value(row));
      group.push(cells);
      for (const cell of cells) characters += cell?.length ?? 0;
      if (group.length === groupRows || characters >= GROUP_CHARACTERS) yield await write();
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

const ELEMENTS = {
  text: { type: 'BYTE_ARRAY', converted_type: 'UTF8' },
  date: { type: 'INT32', converted_type: 'DATE' },
  micros: { type: 'INT64', converted_type: 'TIMESTAMP_MICROS' },
  integer: { type: 'INT64' },
} as const;

function elementOf({ name, type }: Pick<ParquetColumn<never>, 'name' | 'type'>): Element {
  const optional = { name, repetition_type: 'OPTIONAL' } as const;
  if (typeof type === 'string') return { ...optional, ...ELEMENTS[type] };
  return {
    ...optional,
    type: 'FIXED_LEN_BYTE_ARRAY',
    type_length: DECIMAL_BYTES,
    converted_type: 'DECIMAL',
    precision: PRECISION,
    scale: type.scale,
  };
}

function stored(
  { name, type }: Pick<ParquetColumn<never>, 'name' | 'type'>,
  value: string | null,
): string | number | bigint | null {
  if (value === null || type === 'text') return value;
  if (type === 'date') return Date.parse(value) / DAY_MS;
  if (typeof type === 'string') return BigInt(value);
  const digits = unscaled(value, type.scale);
  if (digits === undefined)
    throw new Error(`Column ${name}: ${value} does not fit DECIMAL(${PRECISION}, ${type.scale}). Export it as CSV.`);
  return digits;
}

/** Returns the digits of a decimal as a whole number of 1/10^scale; undefined if some would be lost. */
function unscaled(text: string, scale: number): bigint | undefined {
  const [whole, fraction = ''] = text.split('.') as [string, string?];
  if (/[^0]/.test(fraction.slice(scale))) return undefined;
  const digits = BigInt(whole + fraction.slice(0, scale).padEnd(scale, '0'));
  return digits < LIMIT && digits > -LIMIT ? digits : undefined;
}
const LIMIT = 10n ** BigInt(PRECISION);
