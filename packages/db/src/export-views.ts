import { addDays, type Day, dayOf, eachDay } from '@tally/contracts';
import pg from 'pg';
import { SESSION } from './data-source.ts';
import { type Files, openFiles } from './files.ts';
import { type ParquetColumn, type ParquetType, parquet } from './parquet.ts';

/** The views with a row per day: the column of the day, and those that tell its rows apart, which they are sorted by. */
const DATED: Readonly<Record<string, { date: string; key: string }>> = {
  usage_daily: { date: 'date', key: 'merchant_id, user_id, api_key, model, provider' },
  metrics_daily: { date: 'date', key: 'merchant_id, metric_type' },
  adjustments: { date: 'date', key: 'merchant_id, id' },
  events: { date: 'date', key: 'merchant_id, id' },
  focus_1_2: { date: '"x_Date"', key: `"SubAccountId", "ResourceId", "SkuId", "ProviderName", "Tags" ->> 'user'` },
};
export const EXPORTED_VIEWS = Object.keys(DATED);
const PAGE_ROWS = 5_000;
/** Rows of a row group, for readers that skip or share groups. */
const GROUP_ROWS = 20_000;
/** Costs are in nano-USD, and no metric type has more decimals than 9. */
const DECIMALS = 9;

type Page = (string | null)[][];
type Column = { name: string; type: string };
type Write = (columns: readonly Column[], pages: AsyncIterable<Page>) => AsyncIterable<string | Uint8Array>;

/** Formats by the ending of their files. */
const FORMATS = {
  csv: { ending: 'csv.gz', write: csv },
  parquet: { ending: 'parquet', write: (columns, pages) => parquet(tableOf(columns, pages), GROUP_ROWS) },
} satisfies Record<string, { ending: string; write: Write }>;
export type ExportFormat = keyof typeof FORMATS;
export const EXPORT_FORMATS = Object.keys(FORMATS) as ExportFormat[];

export type ExportOptions = {
  /** A folder, or `s3://bucket/prefix`: each view gets a folder in it, each day a file. */
  target: string;
  startDate: Day;
  endDate: Day;
  /** Names of views in tally_bi; throws for a name that is not in `EXPORTED_VIEWS`. */
  views: readonly string[];
  format: ExportFormat;
};

/**
 * Writes `<target>/<view>/<date>.csv.gz` or `.parquet` for each view and day. Replaces an older file once the new one is
 * complete; the same rows make the same bytes. Returns the rows by view. Reads pages in one transaction for each file,
 * so memory stays bounded.
 */
export async function exportViews(url: string, options: ExportOptions): Promise<Record<string, number>> {
  const { target, startDate, endDate, views, format } = options;
  const unknown = views.filter((view) => !Object.hasOwn(DATED, view));
  if (unknown.length > 0)
    throw new Error(`Cannot export ${unknown.join(', ')}: choose of ${EXPORTED_VIEWS.join(', ')}.`);
  const files = openFiles(target);
  // A cursor is read to its end, so plans are made for all of its rows.
  const session = `${SESSION} -c statement_timeout=0 -c cursor_tuple_fraction=1`;
  const client = new pg.Client({ connectionString: url, application_name: 'tally-export', options: session });
  await client.connect();
  const written: Record<string, number> = {};
  try {
    for (const view of views) {
      written[view] = 0;
      for (const date of eachDay(startDate, endDate))
        written[view] += await exportDay(client, files, { view, date, format });
    }
  } finally {
    await client.end();
  }
  return written;
}

async function exportDay(
  client: pg.Client,
  files: Files,
  { view, date, format }: { view: string; date: Day; format: ExportFormat },
): Promise<number> {
  const { ending, write } = FORMATS[format];
  let rows = 0;
  async function* pages(fields: string): AsyncGenerator<Page> {
    const { date: column, key } = DATED[view]!;
    await client.query(
      `declare page no scroll cursor for
       select ${fields} from tally_bi.${view} as usage where ${column} = ${pg.escapeLiteral(date)}::date order by ${key}`,
    );
    for (;;) {
      const page = await client.query({ text: `fetch ${PAGE_ROWS} from page`, rowMode: 'array' });
      rows += page.rows.length;
      yield page.rows;
      if (page.rows.length < PAGE_ROWS) break;
    }
  }
  async function* content() {
    await client.query('begin transaction read only');
    try {
      const { rows: columns } = await client.query<Column & { quoted: string }>(
        `select attname as name, quote_ident(attname) as quoted, atttypid::regtype::text as type from pg_attribute
         where attrelid = $1::regclass and attnum > 0 order by attnum`,
        [`tally_bi.${view}`],
      );
      yield* write(columns, pages(columns.map((each) => fieldOf(each, format)).join(', ')));
    } finally {
      await client.query('rollback');
    }
  }
  await files.write(`${view}/${date}.${ending}`, content());
  return rows;
}

/** Reads everything as text, so that no number passes through a float and every timestamp has one form. */
function fieldOf({ quoted, type }: { quoted: string; type: string }, format: ExportFormat): string {
  const isMoment = format === 'parquet' && TYPES[type] === 'micros';
  return isMoment ? `(extract(epoch from usage.${quoted}) * 1000000)::bigint::text` : `usage.${quoted}::text`;
}

/** Types of columns of the views. Others, such as JSON, are text. */
const TYPES: Readonly<Record<string, ParquetType>> = {
  date: 'date',
  bigint: 'integer',
  numeric: { scale: DECIMALS },
  'timestamp with time zone': 'micros',
};

const tableOf = (columns: readonly Column[], rows: AsyncIterable<Page>) => ({
  columns: columns.map(
    ({ name, type }, index): ParquetColumn<Page[number]> => ({
      ...{ name, type: TYPES[type] ?? 'text' },
      value: (row) => row[index]!,
    }),
  ),
  rows,
});

async function* csv(columns: readonly Column[], pages: AsyncIterable<Page>): AsyncGenerator<string> {
  yield `${columns.map(({ name }) => csvField(name)).join(',')}\n`;
  for await (const page of pages) yield page.map((row) => `${row.map(csvField).join(',')}\n`).join('');
}

/** Quotes a field if RFC 4180 requires it; null is an empty field, and an empty text is "". */
function csvField(value: string | null): string {
  if (value === null) return '';
  return value === '' || /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** The default days: the last seven, since late events may have changed them. */
export function defaultDays(now: number): { startDate: Day; endDate: Day } {
  const endDate = addDays(dayOf(now), -1);
  return { startDate: addDays(endDate, -6), endDate };
}
