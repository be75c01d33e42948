import fc from 'fast-check';
import { expect, test } from 'vitest';
import { csvOf, entriesOf, parseCsv } from './csv.ts';

test('reads whatever was written as CSV', () => {
  const cell = fc.string();
  const write = (value: string) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  fc.assert(
    fc.property(
      fc.array(fc.array(cell, { minLength: 1, maxLength: 4 })),
      fc.constantFrom('\n', '\r\n'),
      (rows, end) => {
        const text = rows.map((row) => row.map(write).join(',')).join(end);
        // A byte order mark at the start of the file is not part of its text.
        fc.pre(!text.startsWith('\uFEFF'));
        expect(parseCsv(text)).toEqual(rows.filter((row) => row.some((value) => value !== '')));
      },
    ),
  );
});

test('reads entries of the directory by the names of the columns', () => {
  expect(entriesOf('Name,ID,email\nAda,u1,ada@example.com\n"Lovelace, A.",u2,\n')).toEqual({
    entries: [
      { id: 'u1', name: 'Ada', email: 'ada@example.com', role: null, merchantId: null },
      { id: 'u2', name: 'Lovelace, A.', email: null, role: null, merchantId: null },
    ],
    problem: null,
  });
});

test('reads teams where there is a column of them: an empty one removes the team', () => {
  const { entries } = entriesOf('id,name,team\nu1,Ada,Research\nu2,Alan,');
  expect(entries.map(({ team }) => team)).toEqual(['Research', null]);
});

test('says which line cannot be used', () => {
  expect(entriesOf('who\nada').problem).toMatch(/first line/);
  expect(entriesOf('id,name\nu1,Ada\nu2,').problem).toBe('Line 3 has no id or no name.');
});

test('writes what it reads, and no text that a spreadsheet would take for a formula', () => {
  const text = fc.string().filter((value) => !/[=+\-@]/.test(value));
  const rows = fc.array(fc.tuple(text, fc.constantFrom('-1.5', '2')), { minLength: 1 });
  fc.assert(
    fc.property(rows, (written) => {
      expect(parseCsv(csvOf(['a', 'b'], written))).toEqual([['a', 'b'], ...written]);
    }),
  );
  expect(
    csvOf(
      ['name', 'usd'],
      [
        ['=1+1', null],
        ['x, "y"', '-5'],
      ],
    ),
  ).toBe(`name,usd\r\n'=1+1,\r\n"x, ""y""",-5\r\n`);
});
