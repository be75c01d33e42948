/** Parses CSV (RFC 4180) to the fields of each row; accepts a byte order mark, empty lines and either line end. */
export function parseCsv(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let field = '';
  let quoted = false;
  const endField = () => {
    row.push(field);
    field = '';
  };
  const endRow = () => {
    endField();
    if (row.some((each) => each !== '')) rows.push(row);
    row = [];
  };
  const source = text.replace(/^\uFEFF/, '');
  for (let at = 0; at < source.length; at++) {
    const char = source[at]!;
    if (quoted) {
      if (char !== '"') field += char;
      else if (source[at + 1] === '"') {
        field += '"';
        at++;
      } else quoted = false;
    } else if (char === '"' && field === '') quoted = true;
    else if (char === ',') endField();
    else if (char === '\n' || char === '\r') endRow();
    else field += char;
  }
  endRow();
  return rows;
}

export type Entry = {
  id: string;
  name: string;
  email: string | null;
  role: string | null;
  merchantId: string | null;
  /** Absent: the team stays unchanged. */
  team?: string | null;
};

const COLUMNS = 'id, name, and if you like email, role, team, merchantId';

/** Parses entries of the directory from CSV whose first row names the columns. */
export function entriesOf(text: string): { entries: Entry[]; problem: string | null } {
  const [header = [], ...rows] = parseCsv(text);
  const columns = header.map((name) => name.trim().toLowerCase());
  const place = (name: string) => columns.indexOf(name.toLowerCase());
  if (place('id') < 0 || place('name') < 0)
    return {
      entries: [],
      problem: `The first line must name the columns: ${COLUMNS}.`,
    };
  const entries = rows.map((row): Entry => {
    const field = (name: string) => row[place(name)]?.trim() || null;
    return {
      id: field('id') ?? '',
      name: field('name') ?? '',
      email: field('email'),
      role: field('role'),
      merchantId: field('merchantId'),
      ...(place('team') >= 0 && { team: field('team') }),
    };
  });
  const wrong = entries.findIndex(({ id, name }) => id === '' || name === '');
  return { entries, problem: wrong < 0 ? null : `Line ${wrong + 2} has no id or no name.` };
}

/** Where a spreadsheet would find a formula, whether it separates by comma, semicolon or tab. */
const FORMULA = /(?<=^|[,;\t"'])(?=\s*[=+\-@])/g;
const NUMBER = /^-?\d+(\.\d+)?$/;

/** Writes CSV (RFC 4180); null is an empty cell. A text that a spreadsheet would take for a formula gets an apostrophe. */
export function csvOf(columns: readonly string[], rows: readonly (readonly (string | null)[])[]): string {
  return [columns, ...rows].map((row) => `${row.map(cellOf).join(',')}\r\n`).join('');
}

/** Gives the reader a CSV file. */
export function saveCsv(name: string, ...content: Parameters<typeof csvOf>): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([csvOf(...content)], { type: 'text/csv' }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function cellOf(value: string | null): string {
  if (value === null || NUMBER.test(value)) return value ?? '';
  const safe = value.replace(FORMULA, "'");
  return /[",;\t\r\n]|^\s|\s$/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
