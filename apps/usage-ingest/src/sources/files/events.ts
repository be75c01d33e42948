import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { RESERVED_METRICS, TallyError, type UsageEntry } from '@tally/contracts';
import { csvRows, repeatedColumn } from '@tally/service';

export type EventsFile = {
  /** The merchant of rows without one. */
  merchantId?: string | undefined;
};

const TEXTS = ['id', 'merchantId', 'time', 'userId', 'apiKey', 'model', 'provider', 'status', 'count'] as const;
/** Columns that hold JSON objects. */
const OBJECTS = ['metrics', 'properties'] as const;
/** Fields of exports that Tally derives. */
const DERIVED: ReadonlySet<string> = new Set(['date', ...RESERVED_METRICS]);

/**
 * Reads events from a file: NDJSON with one `UsageEntry` per line, or CSV (by the ending `.csv`) whose columns are the
 * fields of a `UsageEntry` or metric types. Also reads the output of `/export/events`. An event without an id gets one
 * from file and line, so reading the file again makes the same events. Throws INVALID_INPUT, naming the line, for an
 * unreadable event or one without a time.
 */
export async function* readEvents(file: string, { merchantId }: EventsFile): AsyncGenerator<UsageEntry> {
  const source = createReadStream(file, 'utf8');
  for await (const { line, fields } of file.endsWith('.csv') ? csvEvents(file, source) : lineEvents(file, source)) {
    const { metrics, ...rest } = fields;
    const sent = Object.entries(rest).filter(([name, value]) => value !== null && value !== '' && !DERIVED.has(name));
    const amounts = Object.entries((metrics ?? {}) as object).filter(([type]) => !DERIVED.has(type));
    const event = {
      id: `${basename(file).slice(-100)}:${line}`,
      ...(merchantId !== undefined && { merchantId }),
      ...Object.fromEntries(sent),
      metrics: Object.fromEntries(amounts),
    };
    // Counted on the day of its import, it would count again when the file is read on another day.
    if (!('time' in event)) throw unreadable(file, line, 'the event has no time.');
    yield event as unknown as UsageEntry;
  }
}

type Read = { line: number; fields: Record<string, unknown> };

async function* lineEvents(file: string, source: NodeJS.ReadableStream): AsyncGenerator<Read> {
  let line = 0;
  for await (const text of createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY })) {
    line++;
    if (text.trim() !== '') yield { line, fields: objectOf(text, file, line) };
  }
}

async function* csvEvents(file: string, source: AsyncIterable<string>): AsyncGenerator<Read> {
  let names: readonly string[] | undefined;
  for await (const { line, cells } of csvRows(source)) {
    if (!names) {
      names = cells.map((name) => name.trim());
      const repeated = repeatedColumn(names);
      if (repeated !== undefined)
        throw unreadable(file, line, `the column ${JSON.stringify(repeated)} is there twice.`);
      continue;
    }
    if (cells.length !== names.length)
      throw unreadable(file, line, `the row has ${cells.length} cells, the first row has ${names.length}.`);
    const metrics: Record<string, unknown> = {};
    const fields: Record<string, unknown> = { metrics };
    for (const [at, name] of names.entries()) {
      const cell = cells[at]!;
      if (cell === '') continue;
      if (isOne(TEXTS, name) || name === 'date') fields[name] = cell;
      else if (name === 'metrics') Object.assign(metrics, objectOf(cell, file, line));
      else if (isOne(OBJECTS, name)) fields[name] = objectOf(cell, file, line);
      else metrics[name] = cell;
    }
    yield { line, fields };
  }
}

function objectOf(text: string, file: string, line: number): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw unreadable(file, line, 'this is not JSON.', cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw unreadable(file, line, 'expected a JSON object.');
  return value as Record<string, unknown>;
}

const isOne = (names: readonly string[], name: string) => names.includes(name);

const unreadable = (file: string, line: number, problem: string, cause?: unknown) =>
  new TallyError('INVALID_INPUT', `${file}:${line}: ${problem}`, cause === undefined ? {} : { cause });
