import { setImmediate as nextTurn } from 'node:timers/promises';
import { type BillKind, type BillProvider, type Day, isTallyError, MAX_BILL_LINES, TallyError } from '@tally/contracts';
import { csvRows, parseExactly, repeatedColumn } from '@tally/service';
import { anthropic } from './anthropic.ts';
import { dayWithin, type ExportFormat, type Fields, fieldsOf, type ReadLine, shown, unreadable } from './fields.ts';
import { openai } from './openai.ts';

const FORMATS: Record<BillProvider, ExportFormat> = { openai, anthropic };

export type ReadExport = {
  kind: BillKind;
  /** Such as `openai-costs-json`. */
  format: string;
  /** Days of the export in order, also those without lines. */
  days: Day[];
  lines: (ReadLine & { date: Day })[];
  /** How many lines the export has. */
  count: number;
  /** The unit in which amounts are written, in nano-USD. */
  rounding: bigint;
  hasMore: boolean;
  rejected: { place: string; message: string }[];
};

const MAX_DECIMALS = 9;
/** Bills are written at least to the cent. */
const MIN_DECIMALS = 2;
const MAX_MODEL = 256;
const NAMES: Record<BillKind, string> = { cost: 'costs', usage: 'usage' };

/**
 * Reads the text of an export: JSON (a page of the provider's API or an array of pages) or CSV. Throws INVALID_INPUT
 * for text of another kind and beyond MAX_BILL_LINES; unreadable lines are `rejected`.
 */
export async function readExport(provider: BillProvider, text: string): Promise<ReadExport> {
  const isJson = /^[\uFEFF\s]*[{[]/.test(text);
  const reading = createReading(FORMATS[provider]);
  if (isJson) readPages(reading, text.replace(/^\uFEFF/, ''));
  else await readRows(reading, text);
  const { kind, days, ...rest } = reading.result();
  if (kind === undefined)
    throw new TallyError(
      'INVALID_INPUT',
      rest.rejected[0]
        ? `No line of the export can be read. ${rest.rejected[0].place}: ${rest.rejected[0].message}`
        : days.size > 0
          ? `No line of the export has an amount or tokens: is it an export of ${provider}?`
          : 'The export has no line, so it cannot be told whether it has costs or usage.',
    );
  return { ...rest, kind, format: `${provider}-${NAMES[kind]}-${isJson ? 'json' : 'csv'}`, days: [...days].sort() };
}

/** Collects the lines of one export. */
function createReading(format: ExportFormat) {
  const days = new Set<Day>();
  const lines: ReadExport['lines'] = [];
  const rejected: ReadExport['rejected'] = [];
  let [kind, count, decimals, hasMore] = [undefined as BillKind | undefined, 0, MIN_DECIMALS, false];
  return {
    format,
    days,
    /** Runs what reads one place; a failure rejects this place only. */
    at(place: string, read: () => void): void {
      try {
        read();
      } catch (error) {
        if (!isTallyError(error) || error.code === 'BATCH_TOO_LARGE') throw error;
        rejected.push({ place, message: error.message });
      }
    },
    line(date: Day, fields: Fields, source: 'json' | 'csv'): void {
      if (++count > MAX_BILL_LINES)
        throw new TallyError(
          'BATCH_TOO_LARGE',
          `The export has more than ${MAX_BILL_LINES} lines: split it by days, or group it by fewer fields.`,
        );
      const own = format.kindOf(fields);
      if (own === undefined) throw unreadable('It has neither an amount nor tokens.');
      kind ??= own;
      if (own !== kind)
        throw unreadable(`It has ${NAMES[own]}, and the lines before have ${NAMES[kind]}: import them apart.`);
      for (const line of format.linesOf(kind, fields, source)) {
        if (line.model.length > MAX_MODEL || /[\p{Cc}\p{Cs}]/u.test(line.model))
          throw unreadable(`Its name is longer than ${MAX_MODEL} characters, or has control characters.`);
        lines.push({ date, ...line });
      }
      if (kind === 'cost') decimals = Math.max(decimals, format.decimalsOf(fields));
    },
    more(): void {
      hasMore = true;
    },
    result: () => ({
      ...{ kind, days, lines, count, hasMore, rejected },
      rounding: 10n ** BigInt(MAX_DECIMALS - Math.min(decimals, MAX_DECIMALS)),
    }),
  };
}

type Reading = ReturnType<typeof createReading>;

function readPages(reading: Reading, text: string): void {
  const parsed = parseJson(text);
  const pages = Array.isArray(parsed) ? parsed : [parsed];
  const seen = new Set<string>();
  pages.forEach((page: unknown, number) => {
    const at = pages.length > 1 ? `[${number}].` : '';
    const data = fieldsOf(page).data;
    if (!Array.isArray(data))
      throw new TallyError('INVALID_INPUT', `${at}data is not an array: expected a page of the provider's API.`);
    if (number === pages.length - 1 && fieldsOf(page).has_more === true) reading.more();
    data.forEach((bucket: unknown, index) => {
      const place = `${at}data[${index}]`;
      reading.at(place, () => {
        const fields = fieldsOf(bucket);
        const span = reading.format.bucket(fields);
        const date = dayWithin(span);
        reading.days.add(date);
        const results = fields.results;
        if (!Array.isArray(results)) throw unreadable('results is not an array.');
        if (results.length === 0) return;
        // Pages that overlap would count twice.
        const key = JSON.stringify([span.start, fieldsOf(results[0]).object]);
        if (seen.has(key)) throw unreadable('The export has this bucket twice: leave out the page that repeats it.');
        seen.add(key);
        results.forEach((result: unknown, line) => {
          reading.at(`${place}.results[${line}]`, () => reading.line(date, fieldsOf(result), 'json'));
        });
      });
    });
  });
}

async function readRows(reading: Reading, text: string): Promise<void> {
  let columns: string[] | undefined;
  for await (const { line, cells } of csvRows(parts(text))) {
    if (!columns) {
      columns = cells.map((cell) => cell.trim().toLowerCase());
      const repeated = repeatedColumn(columns.filter((name) => name !== ''));
      if (repeated !== undefined)
        throw unreadable(`The first line names the column ${shown(repeated)} twice: leave out one of the two.`);
      continue;
    }
    reading.at(`line ${line}`, () => {
      const counts = `It has ${cells.length} cells, and the first line names ${columns!.length} columns`;
      if (cells.length < columns!.length) throw unreadable(`${counts}: is the file cut off?`);
      if (cells.slice(columns!.length).some((cell) => cell.trim() !== ''))
        throw unreadable(`${counts}: is a comma not quoted?`);
      const row: Record<string, string> = {};
      columns!.forEach((name, index) => {
        const cell = cells[index]?.trim() ?? '';
        if (cell !== '') row[name] = cell;
      });
      const date = reading.format.dayOfRow(row);
      reading.days.add(date);
      if (reading.format.kindOf(row) !== undefined) reading.line(date, row, 'csv');
    });
  }
}

/** A piece of a long text: others are served between two. */
const PIECE = 65_536;

async function* parts(text: string): AsyncGenerator<string> {
  for (let at = 0; at < text.length; at += PIECE) {
    yield text.slice(at, at + PIECE);
    await nextTurn();
  }
}

function parseJson(text: string): unknown {
  try {
    return parseExactly(text);
  } catch (cause) {
    throw new TallyError('INVALID_INPUT', `The export is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}
