import { addDays, type Day, dayOf, eachDay } from '@tally/contracts';
import pg from 'pg';
import { type Files, openFiles } from './files.ts';

/** The views with a row per day, and their column of the day. */
const DATED: Readonly<Record<string, string>> = {
  usage_daily: 'date',
  metrics_daily: 'date',
  adjustments: 'date',
  events: 'date',
  focus_1_2: `("ChargePeriodStart" at time zone 'UTC')::date`,
};
export const EXPORTED_VIEWS = Object.keys(DATED);
const PAGE_ROWS = 5_000;

export type ExportOptions = {
  /** A folder, or `s3://bucket/prefix`: each view gets a folder in it, each day a file. */
  target: string;
  startDate: Day;
  endDate: Day;
  /** Names of views in tally_bi; throws for a name that is not in `EXPORTED_VIEWS`. */
  views: readonly string[];
};

/**
 * Writes `<target>/<view>/<date>.csv.gz` for each view and day, with a header. Replaces an older file once the new one
 * is complete. Returns the rows by view. Reads pages in one transaction, so memory stays bounded.
 */
export async function exportViews(url: string, options: ExportOptions): Promise<Record<string, number>> {
  const { target, startDate, endDate, views } = options;
  const unknown = views.filter((view) => !Object.hasOwn(DATED, view));
  if (unknown.length > 0)
    throw new Error(`Cannot export ${unknown.join(', ')}: choose of ${EXPORTED_VIEWS.join(', ')}.`);
  const files = openFiles(target);
  const client = new pg.Client({ connectionString: url, application_name: 'tally-export', options: '-c TimeZone=UTC' });
  await client.connect();
  const written: Record<string, number> = {};
  try {
    for (const view of views) {
      written[view] = 0;
      for (const date of eachDay(startDate, endDate)) written[view] += await exportDay(client, files, { view, date });
    }
  } finally {
    await client.end();
  }
  return written;
}

async function exportDay(
  client: pg.Client,
  files: Files,
  { view, date }: { view: string; date: Day },
): Promise<number> {
  let rows = 0;
  async function* lines() {
    await client.query('begin transaction read only');
    try {
      // As text, so that no number passes through a float and every timestamp has one form.
      const { rows: columns } = await client.query(
        `select quote_ident(attname) as name, attname from pg_attribute
         where attrelid = $1::regclass and attnum > 0 order by attnum`,
        [`tally_bi.${view}`],
      );
      yield `${columns.map(({ attname }) => csv(attname)).join(',')}\n`;
      const fields = columns.map(({ name }) => `usage.${name}::text`).join(', ');
      await client.query(
        `declare page no scroll cursor for
         select ${fields} from tally_bi.${view} as usage where ${DATED[view]} = ${pg.escapeLiteral(date)}::date`,
      );
      for (;;) {
        const page = await client.query({ text: `fetch ${PAGE_ROWS} from page`, rowMode: 'array' });
        for (const row of page.rows) yield `${(row as (string | null)[]).map(csv).join(',')}\n`;
        rows += page.rows.length;
        if (page.rows.length < PAGE_ROWS) break;
      }
    } finally {
      await client.query('rollback');
    }
  }
  await files.write(`${view}/${date}.csv.gz`, lines());
  return rows;
}

/** Quotes a field if RFC 4180 requires it; null is an empty field, and an empty text is "". */
function csv(value: string | null): string {
  if (value === null) return '';
  return value === '' || /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** The default days: the last seven, since late events may have changed them. */
export function defaultDays(now: number): { startDate: Day; endDate: Day } {
  const endDate = addDays(dayOf(now), -1);
  return { startDate: addDays(endDate, -6), endDate };
}
