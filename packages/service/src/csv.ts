import { TallyError } from '@tally/contracts';

export type CsvRow = {
  /** The line of the file on which the row begins. */
  line: number;
  cells: string[];
};

const MAX_ROW = 1024 * 1024;

/**
 * Parses CSV (RFC 4180, lines end with LF or CRLF) row by row. Skips empty lines. Throws INVALID_INPUT for a row of
 * over 1 MiB, as an open quote makes one, and for text behind a closing quote.
 */
export async function* csvRows(source: AsyncIterable<string>): AsyncGenerator<CsvRow> {
  let [line, start, length] = [1, 1, 0];
  let cells: string[] = [];
  let cell = '';
  /** quoted: between quotes; closed: behind a quote that ends the cell, or is the first of two. */
  let state: 'plain' | 'quoted' | 'closed' = 'plain';
  let isFirst = true;

  const endCell = () => {
    cells.push(cell);
    cell = '';
    state = 'plain';
  };
  for await (const chunk of source) {
    for (const char of isFirst ? chunk.replace(/^\uFEFF/, '') : chunk) {
      if (++length > MAX_ROW)
        throw new TallyError('INVALID_INPUT', `The row at line ${start} is longer than 1 MiB: is a quote not closed?`);
      if (char === '\n') line++;
      if (state === 'quoted' && char !== '"') cell += char;
      else if (state === 'quoted') state = 'closed';
      else if (char === '"' && state === 'closed') {
        cell += char;
        state = 'quoted';
      } else if (char === '"' && cell === '') state = 'quoted';
      else if (char === ',') endCell();
      else if (char === '\n') {
        endCell();
        if (cells.length > 1 || cells[0] !== '') yield { line: start, cells };
        [cells, start, length] = [[], line, 0];
      } else if (char === '\r') continue;
      else if (state === 'closed')
        throw new TallyError('INVALID_INPUT', `Line ${line}: there is text after the closing quote of a cell.`);
      else cell += char;
    }
    isFirst = false;
  }
  if (state === 'quoted')
    throw new TallyError('INVALID_INPUT', `The row at line ${start} ends in the middle of a quoted cell.`);
  endCell();
  if (cells.length > 1 || cells[0] !== '') yield { line: start, cells };
}

/** Returns the first name of a header that stands there twice. */
export function repeatedColumn(names: readonly string[]): string | undefined {
  const known = new Set<string>();
  return names.find((name) => known.size === known.add(name).size);
}
