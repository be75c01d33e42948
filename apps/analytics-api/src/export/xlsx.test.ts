import fc from 'fast-check';
import { strFromU8, unzipSync } from 'fflate';
import { expect, test } from 'vitest';
import type { Row } from './table.ts';
import { xlsx } from './xlsx.ts';

async function sheetOf(text: string): Promise<string> {
  const rows = (async function* () {
    yield [{} as Row];
  })();
  const chunks: Uint8Array[] = [];
  for await (const chunk of xlsx({ columns: [{ name: 'text', cell: () => ({ text }) }], rows })) chunks.push(chunk);
  return strFromU8(unzipSync(Buffer.concat(chunks))['xl/worksheets/sheet1.xml']!);
}

test('a sheet has any text as text and never as a formula', async () => {
  const nasty = fc.constantFrom(
    '=1+1',
    '<f>1+1</f>',
    '</t></is></c><c><f>1</f></c>',
    '&lt;',
    '\u0001',
    '\uffff',
    ']]>',
    '"',
  );
  const text = fc.oneof(
    fc.array(nasty, { maxLength: 5 }).map((parts) => parts.join('')),
    fc.string({ unit: 'binary', maxLength: 20 }),
  );
  await fc.assert(
    fc.asyncProperty(text, async (given) => {
      const sheet = await sheetOf(given);
      expect(sheet.match(/<[a-zA-Z/?][^>]*>/g)).toEqual((await sheetOf('')).match(/<[a-zA-Z/?][^>]*>/g));
      expect(sheet).not.toContain('<f');
    }),
    { numRuns: 300 },
  );
});
