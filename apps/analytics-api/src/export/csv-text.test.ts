import fc from 'fast-check';
import { expect, test } from 'vitest';
import { csvText } from './csv-text.ts';

/** Parses a file like a spreadsheet, which is lenient: text after a closing quote belongs to the cell. */
function cellsOf(file: string, separator: string): string[] {
  const cells: string[] = [];
  let cell = '';
  for (let at = 0; ; ) {
    if (cell === '' && file[at] === '"') {
      for (at++; at < file.length; at++) {
        if (file[at] !== '"') cell += file[at];
        else if (file[at + 1] === '"') cell += file[at++];
        else break;
      }
      at++;
    }
    while (at < file.length && file[at] !== separator && file[at] !== '\n' && file[at] !== '\r') cell += file[at++];
    cells.push(cell);
    if (at >= file.length) return cells;
    cell = '';
    at++;
  }
}

const runs = (cell: string) => {
  const [first = ''] = [...cell.replace(/^[\s\p{C}\p{Z}\p{DI}"]+/u, '')];
  return /^[=+\-@\u2212]/.test(first.normalize('NFKC'));
};

const nasty = fc.constantFrom(
  ...[
    '=1+1',
    '+1',
    '-1',
    '@SUM(1)',
    '\uff1d1',
    '\uff0b1',
    '\uff0d1',
    '\uff201',
    '\ufe661',
    '\ufe621',
    '\ufe631',
    '\ufe6b1',
  ],
  ...[
    '\u207a1',
    '\u22121',
    '\u00a0',
    '\ufeff',
    '\u200b',
    '\u2060',
    '\u034f',
    '\u3164',
    '\u0001',
    '\u000b',
    ' ',
    '\u3000',
  ],
  ...[',', ';', '\t', '\r\n', '\n', '"', '""', "'", 'a', 'é', '💥', '|'],
);
const text = fc.oneof(
  fc.array(nasty, { maxLength: 8 }).map((parts) => parts.join('')),
  fc.string({ unit: 'binary', maxLength: 12 }),
);

test.each([',', ';', '\t'])('no cell of a sheet separated by %j begins a formula, for any texts', (separator) => {
  fc.assert(
    fc.property(fc.array(fc.array(text, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 4 }), (rows) => {
      const file = rows.map((row) => `${row.map(csvText).join(',')},12,0.5\n`).join('');
      for (const cell of cellsOf(file, separator)) expect(runs(cell), JSON.stringify([file, cell])).toBe(false);
    }),
    { numRuns: 5_000 },
  );
});

test('text without formulas and control characters comes back as it is', () => {
  fc.assert(
    fc.property(fc.array(text, { minLength: 1, maxLength: 4 }), (row) => {
      const plain = row.map((each) =>
        each.replace(/[\p{Cc}=+\-@\u2212\uff0b-\uff20\ufe62-\ufe6b\u207a-\u208c\ufb29\u2a74-\u2a76]/gu, ''),
      );
      expect(cellsOf(plain.map(csvText).join(','), ',')).toEqual(plain);
    }),
    { numRuns: 5_000 },
  );
});
