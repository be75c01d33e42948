import { tableFromIPC } from 'apache-arrow';
import fc from 'fast-check';
import { ParquetFile, readParquet } from 'parquet-wasm';
import { expect, test } from 'vitest';
import { type ParquetColumn, parquet } from './parquet.ts';

type Given = { name: string; date: string; time: string; count: string; whole: string; cost: string };

const COLUMNS: ParquetColumn<Given>[] = [
  { name: 'name', type: 'text', value: ({ name }) => name },
  { name: 'date', type: 'date', value: ({ date }) => date },
  { name: 'time', type: 'micros', value: ({ time }) => time },
  { name: 'count', type: 'integer', value: ({ count }) => count },
  { name: 'whole', type: { scale: 0 }, value: ({ whole }) => (whole === '' ? null : whole) },
  { name: 'cost', type: { scale: 9 }, value: ({ cost }) => cost },
];

async function write(pieces: Given[][], groupRows: number): Promise<Uint8Array> {
  async function* rows() {
    yield* pieces;
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of parquet({ columns: COLUMNS, rows: rows() }, groupRows)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Reads a file with other libraries than its writer: parquet of Rust, and Arrow. */
async function read(pieces: Given[][], groupRows = 100): Promise<Given[]> {
  const table = tableFromIPC(readParquet(await write(pieces, groupRows)).intoIPCStream());
  // As stored, since Arrow's rows have moments in milliseconds.
  const times = table.getChild('time')!.data.flatMap(({ values }) => [...values]);
  return Array.from({ length: table.numRows }, (_, index) => {
    const row = table.get(index)!;
    return {
      name: row.name,
      date: new Date(row.date).toISOString().slice(0, 10),
      time: String(times[index]),
      count: String(row.count),
      whole: decimal(row.whole, 0),
      cost: decimal(row.cost, 9),
    };
  });
}

/** Prints a Decimal128 of four words, the lowest first, as a number with a sign. */
function decimal(words: Uint32Array | null, scale: number): string {
  if (words === null) return '';
  const unscaled = BigInt.asIntN(
    128,
    [...words].reduceRight((value, word) => (value << 32n) | BigInt(word), 0n),
  );
  const digits = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(scale + 1, '0');
  const fraction = scale === 0 ? '' : digits.slice(-scale).replace(/0+$/, '');
  const whole = scale === 0 ? digits : digits.slice(0, -scale);
  return `${unscaled < 0n ? '-' : ''}${whole}${fraction && `.${fraction}`}`;
}

async function groupsOf(pieces: Given[][], groupRows: number): Promise<number> {
  const file = await ParquetFile.fromFile(new Blob([await write(pieces, groupRows)]));
  return file.metadata().numRowGroups();
}

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(String);
const units = fc.bigInt({ min: -(10n ** 27n), max: 10n ** 27n });
const day = fc.date({ min: new Date('1900-01-01'), max: new Date('2199-12-31'), noInvalidDate: true });
const given: fc.Arbitrary<Given> = fc.record({
  name: fc.string({ unit: 'grapheme' }),
  date: day.map((date) => date.toISOString().slice(0, 10)),
  time: int64,
  count: int64,
  whole: fc.oneof(fc.constant(''), units.map(String)),
  cost: fc.tuple(units, fc.nat(999)).map(([whole, fraction]) => {
    const text = `${whole}${fraction === 0 ? '' : `.000000${String(fraction).padStart(3, '0')}`.replace(/0+$/, '')}`;
    return text;
  }),
});

test('is read by another library, every digit as it was written', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.array(given, { maxLength: 20 }), { maxLength: 4 }), async (pieces) => {
      expect(await read(pieces)).toEqual(pieces.flat());
    }),
    { numRuns: 30 },
  );
});

const row = (index: number): Given => ({
  ...{ name: `user-${index}`, date: '2026-11-22', time: String(index), count: '1' },
  ...{ whole: String(index), cost: '0.000000001' },
});

test('begins a row group after as many rows as are given, or after 8 MiB of text', async () => {
  const rows = Array.from({ length: 1_234 }, (_, index) => row(index));
  const pieces = [rows.slice(0, 700), rows.slice(700)];
  expect(await read(pieces, 500)).toEqual(rows);
  expect(await groupsOf(pieces, 500)).toBe(3);
  const large = Array.from({ length: 9 }, (_, index) => ({ ...row(index), name: 'x'.repeat(2 ** 20) }));
  expect(await groupsOf([large], 5_000)).toBe(2);
});

test.each([
  ['more decimals than the column', '0.0000000001'],
  ['more digits than 38', `1${'0'.repeat(29)}`],
])('rejects a decimal with %s, and names the column', async (_, cost) => {
  await expect(read([[{ ...row(1), cost }]])).rejects.toThrow(`Column cost: ${cost} does not fit DECIMAL(38, 9)`);
});

test('takes zeros behind the last decimal, and the largest decimal there is', async () => {
  const largest = `-${'9'.repeat(29)}.${'9'.repeat(9)}`;
  const costs = ['1.5000000000000000', largest];
  const rows = await read([costs.map((cost) => ({ ...row(1), cost }))]);
  expect(rows.map(({ cost }) => cost)).toEqual(['1.5', largest]);
});
