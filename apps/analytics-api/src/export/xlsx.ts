import { strToU8, Zip, ZipDeflate } from 'fflate';
import type { Cell, Table } from './table.ts';

/** The most rows of a sheet that Excel opens. */
const MAX_SHEET_ROWS = 1_048_576;
/** Digits that a spreadsheet's double holds; a longer quantity is written as text, so that it stays exact. */
const EXACT_DIGITS = 15;
const XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>';
const MAIN = 'http://schemas.openxmlformats.org/spreadsheetml/2006/main';
const RELATIONS = 'http://schemas.openxmlformats.org/officeDocument/2006/relationships';
const PACKAGE = 'http://schemas.openxmlformats.org/package/2006';
const TYPE = 'application/vnd.openxmlformats-officedocument.spreadsheetml';

/**
 * Writes a workbook while it is read: the sheets first, then the parts that name them. Text is inline text, which no
 * spreadsheet runs as a formula. Rows beyond the limit of a sheet continue in the next one.
 */
export async function* xlsx({ columns, rows }: Table): AsyncGenerator<Uint8Array> {
  const chunks: Uint8Array[] = [];
  const zip = new Zip((error, chunk) => {
    if (error) throw error;
    chunks.push(chunk);
  });
  const open = (name: string) => {
    const file = new ZipDeflate(name, { level: 1 });
    zip.add(file);
    return file;
  };
  const write = (name: string, text: string) => open(name).push(strToU8(XML + text), true);
  let sheets = 0;
  let used = 0;
  let sheet: ZipDeflate | undefined;
  const header = rowOf(columns.map(({ name }) => ({ text: name })));
  const begin = () => {
    sheets++;
    sheet = open(`xl/worksheets/sheet${sheets}.xml`);
    sheet.push(strToU8(`${XML}<worksheet xmlns="${MAIN}"><sheetData>${header}`));
    used = 1;
  };
  const end = () => sheet?.push(strToU8('</sheetData></worksheet>'), true);

  begin();
  for await (const piece of rows) {
    for (let from = 0; from < piece.length; ) {
      if (used === MAX_SHEET_ROWS) {
        end();
        begin();
      }
      const part = piece.slice(from, from + MAX_SHEET_ROWS - used);
      sheet!.push(strToU8(part.map((row) => rowOf(columns.map(({ cell }) => cell(row)))).join('')));
      used += part.length;
      from += part.length;
    }
    yield* chunks.splice(0);
  }
  end();
  const each = (line: (number: number) => string) =>
    Array.from({ length: sheets }, (_, index) => line(index + 1)).join('');
  write(
    'xl/workbook.xml',
    `<workbook xmlns="${MAIN}" xmlns:r="${RELATIONS}"><sheets>${each(
      (number) => `<sheet name="usage${number > 1 ? ` ${number}` : ''}" sheetId="${number}" r:id="rId${number}"/>`,
    )}</sheets></workbook>`,
  );
  write(
    'xl/_rels/workbook.xml.rels',
    `<Relationships xmlns="${PACKAGE}/relationships">${each(
      (number) =>
        `<Relationship Id="rId${number}" Type="${RELATIONS}/worksheet" Target="worksheets/sheet${number}.xml"/>`,
    )}</Relationships>`,
  );
  write(
    '_rels/.rels',
    `<Relationships xmlns="${PACKAGE}/relationships"><Relationship Id="rId1" Type="${RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>`,
  );
  write(
    '[Content_Types].xml',
    `<Types xmlns="${PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="${TYPE}.sheet.main+xml"/>${each(
      (number) => `<Override PartName="/xl/worksheets/sheet${number}.xml" ContentType="${TYPE}.worksheet+xml"/>`,
    )}</Types>`,
  );
  zip.end();
  yield* chunks.splice(0);
}

const rowOf = (cells: readonly Cell[]) => `<row>${cells.map(cellOf).join('')}</row>`;

function cellOf(cell: Cell): string {
  if (cell === null) return '<c/>';
  if ('quantity' in cell && cell.quantity.replace(/\D/g, '').replace(/^0+/, '').length <= EXACT_DIGITS)
    return `<c><v>${cell.quantity}</v></c>`;
  const text = 'text' in cell ? cell.text : cell.quantity;
  return `<c t="inlineStr"><is><t xml:space="preserve">${escaped(text)}</t></is></c>`;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: XML has no way to write them.
const UNWRITABLE = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff\p{Cs}]/gu;

function escaped(text: string): string {
  return text.replace(UNWRITABLE, '').replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
