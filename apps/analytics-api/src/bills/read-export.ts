import { setImmediate as nextTurn } from 'node:timers/promises';
import { type BillKind, type BillProvider, type Day, isTallyError, MAX_BILL_LINES, TallyError } from '@tally/contracts';
import { createJsonCounter, csvRows, parseExactly, repeatedColumn } from '@tally/service';
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
  /** Places of lines that equal an earlier one in every field; they count. */
  repeated: string[];
};

const MAX_DECIMALS = 9;
/** Bills are written at least to the cent. */
const MIN_DECIMALS = 2;
const MAX_MODEL = 256;
/** A line has some 20 fields, and none is nested deeper than its page, bucket and result. */
const JSON_LIMITS = { maxItems: 2_000_000, maxDepth: 32 };
const MINUTE_MS = 60_000;
const NAMES: Record<BillKind, string> = { cost: 'costs', usage: 'usage' };

/**
 * Reads the text of an export: JSON (a page of the provider's API or an array of pages) or CSV. Unreadable lines are
 * `rejected`. Throws INVALID_INPUT for text of another kind, and if no line or more than MAX_BILL_LINES are unreadable;
 * BATCH_TOO_LARGE beyond MAX_BILL_LINES.
 */
export async function readExport(provider: BillProvider, text: string): Promise<ReadExport> {
  const isJson = /^[\uFEFF\s]*[{[]/.test(text);
  const reading = createReading(FORMATS[provider]);
  if (isJson) await readPages(reading, text.replace(/^\uFEFF/, ''));
  else await readRows(reading, text);
  const { kind, days, ...rest } = reading.result();
  if (kind === undefined)
    throw new TallyError(
      'INVALID_INPUT',
      rest.rejected[0]
        ? `No line of the export can be read. ${sentenceOf(rest.rejected[0])}`
        : days.size > 0
          ? `No line of the export has an amount or tokens: is it an export of ${provider}?`
          : 'The export has no line, so it cannot be told whether it has costs or usage.',
    );
  return { ...rest, kind, format: `${provider}-${NAMES[kind]}-${isJson ? 'json' : 'csv'}`, days: [...days].sort() };
}

const sentenceOf = ({ place, message }: ReadExport['rejected'][number]) => `${place}: ${message}`;

/** Collects the lines of one export. */
function createReading(format: ExportFormat) {
  const days = new Set<Day>();
  const lines: ReadExport['lines'] = [];
  const rejected: ReadExport['rejected'] = [];
  const known = new Set<string>();
  const repeated: string[] = [];
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
        if (rejected.length === MAX_BILL_LINES)
          throw unreadable(
            `The export has more than ${MAX_BILL_LINES} lines that cannot be read. ${sentenceOf(rejected[0]!)}`,
          );
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
        lines.push({ date, ...line, model: line.model.normalize('NFC') });
      }
      if (kind === 'cost') decimals = Math.max(decimals, format.decimalsOf(fields));
    },
    /** Notes a line that was read, by its whole text. */
    note(place: string, whole: string): void {
      if (known.has(whole)) repeated.push(place);
      else known.add(whole);
    },
    more(): void {
      hasMore = true;
    },
    result: () => ({
      ...{ kind, days, lines, count, hasMore, rejected, repeated },
      rounding: 10n ** BigInt(MAX_DECIMALS - Math.min(decimals, MAX_DECIMALS)),
    }),
  };
}

type Reading = ReturnType<typeof createReading>;

async function readPages(reading: Reading, text: string): Promise<void> {
  const parsed = parseJson(text);
  const pages = Array.isArray(parsed) ? parsed : [parsed];
  /** Of each day and kind of results: the begins of its buckets, and their length. */
  const seen = new Map<string, { starts: Set<number>; minutes: number }>();
  for (const [number, page] of pages.entries()) {
    const at = pages.length > 1 ? `[${number}].` : '';
    const data = fieldsOf(page).data;
    if (!Array.isArray(data))
      throw new TallyError('INVALID_INPUT', `${at}data is not an array: expected a page of the provider's API.`);
    if (number === pages.length - 1 && fieldsOf(page).has_more === true) reading.more();
    for (const [index, bucket] of data.entries()) {
      await nextTurn();
      const place = `${at}data[${index}]`;
      reading.at(place, () => {
        const fields = fieldsOf(bucket);
        const span = reading.format.bucket(fields);
        const date = dayWithin(span);
        reading.days.add(date);
        // OpenAI's reference names them `result`, its answers `results`.
        const results = fields.results ?? fields.result;
        if (!Array.isArray(results)) throw unreadable('results is not an array.');
        if (results.length === 0) return;
        // Pages that overlap would count twice, and so would hours beside their day.
        const key = JSON.stringify([date, fieldsOf(results[0]).object]);
        const minutes = Math.ceil((span.end - span.start) / MINUTE_MS);
        const known = seen.get(key) ?? { starts: new Set(), minutes };
        if (known.minutes !== minutes)
          throw unreadable(`The export has ${date} in buckets of other lengths, too: export it with bucket_width=1d.`);
        if (known.starts.has(span.start))
          throw unreadable('The export has this bucket twice: leave out the page that repeats it.');
        known.starts.add(span.start);
        seen.set(key, known);
        results.forEach((result: unknown, index) => {
          const line = `${place}.results[${index}]`;
          reading.at(line, () => {
            reading.line(date, fieldsOf(result), 'json');
            reading.note(line, `${place} ${JSON.stringify(result)}`);
          });
        });
      });
    }
  }
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
    const place = `line ${line}`;
    reading.at(place, () => {
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
      if (reading.format.kindOf(row) === undefined) return;
      reading.line(date, row, 'csv');
      reading.note(place, JSON.stringify(row));
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
  createJsonCounter(JSON_LIMITS)(Buffer.from(text));
  try {
    return parseExactly(text);
  } catch (cause) {
    throw new TallyError('INVALID_INPUT', `The export is not valid JSON: ${(cause as Error).message}`, { cause });
  }
}
