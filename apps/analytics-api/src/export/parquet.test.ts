import { tableFromIPC } from 'apache-arrow';
import fc from 'fast-check';
import { readParquet } from 'parquet-wasm';
import { expect, test } from 'vitest';
import { parquet } from './parquet.ts';
import type { Cell, Column, Row } from './table.ts';

type Given = { name: string; date: string; whole: string; cost: string };

const columns: Column[] = [
  { name: 'name', cell: (row) => ({ text: (row as unknown as Given).name }) },
  { name: 'date', type: 'date', cell: (row) => ({ text: (row as unknown as Given).date }) },
  { name: 'whole', type: { scale: 0 }, cell: (row) => quantity((row as unknown as Given).whole) },
  { name: 'cost', type: { scale: 9 }, cell: (row) => quantity((row as unknown as Given).cost) },
];
const quantity = (text: string): Cell => (text === '' ? null : { quantity: text });

/** Reads a file with other libraries than its writer: parquet of Rust, and Arrow. */
async function read(pieces: Given[][]): Promise<Given[]> {
  async function* rows() {
    for (const piece of pieces) yield piece as unknown as Row[];
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of parquet({ columns, rows: rows() })) chunks.push(chunk);
  const table = tableFromIPC(readParquet(Buffer.concat(chunks)).intoIPCStream());
  return Array.from({ length: table.numRows }, (_, index) => {
    const row = table.get(index)!;
    return {
      name: row.name,
      date: new Date(row.date).toISOString().slice(0, 10),
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

const units = fc.bigInt({ min: -(10n ** 27n), max: 10n ** 27n });
const day = fc.date({ min: new Date('1900-01-01'), max: new Date('2199-12-31'), noInvalidDate: true });
const given: fc.Arbitrary<Given> = fc.record({
  name: fc.string({ unit: 'grapheme' }),
  date: day.map((date) => date.toISOString().slice(0, 10)),
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

test('has as many row groups as it needs', async () => {
  const rows = Array.from({ length: 12_345 }, (_, index) => ({
    name: `user-${index}`,
    date: '2026-11-22',
    whole: String(index),
    cost: '0.000000001',
  }));
  expect(await read([rows.slice(0, 7_000), rows.slice(7_000)])).toEqual(rows);
});
