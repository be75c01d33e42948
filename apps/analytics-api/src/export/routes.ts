import { type Coverage, ExportQuery, Filters, MeterQuery, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { acceptsEncoding, type Caller, merchantsFor, queryOf, type RateLimit, type Route } from '@tally/service';
import type { z } from 'zod';
import { opened } from '../cache.ts';
import { assertRange } from '../dates.ts';
import { type Documents, kindsOf } from '../documents.ts';
import type { Freshness } from '../fresh.ts';
import type { Labels } from '../labels.ts';
import type { ReadMeter } from '../meter.ts';
import type { Read } from '../read.ts';
import type { Downloads } from './downloads.ts';
import { FORMATS } from './formats.ts';
import { eventsOf, meterOf, seriesOf, type Table, tableOf } from './table.ts';

export type ExportOptions = {
  db: Db;
  read: Pick<Read, 'timeseries'>;
  readMeter: ReadMeter;
  labels: Labels;
  freshness: Freshness;
  documents: Documents;
  rates: RateLimit;
  downloads: Downloads;
  maxDays: number;
};

const LISTS = [
  ...['merchantIds', 'userIds', 'models', 'providers', 'apiKeys', 'teams', 'by'],
  // Of a meter.
  ...['groupBy', 'filter'],
];

/** Formats with compression of their own. */
const COMPRESSED = ['parquet', 'xlsx'];

/** A table and its coverage. */
type Answer = { coverage: Coverage; table: Table };

/**
 * GET /export/usage.{csv,json,ndjson,parquet,xlsx}: the filters and `by` of a breakdown as query parameters, or with
 * `interval` those of a time series; a list is a repeated parameter or `name=a,b`. GET /export/meter.{…}: a meter by
 * windows and dimensions. GET /export/events.{csv,ndjson}: the events in the journal, by the same filters. `x-tally-*`
 * headers have the coverage of the file. `Range` with `If-Range` resumes a download.
 */
export function exportRoutes(options: ExportOptions): Route[] {
  const { db, read, readMeter, labels, freshness, documents, rates, downloads, maxDays } = options;
  const route = <Query extends { merchantIds?: string[] | undefined }>(
    name: 'usage' | 'events' | 'meter',
    endings: readonly string[],
    schema: z.ZodType<Query>,
    answer: (filters: Query, caller: Caller) => Promise<Answer>,
  ): Route => ({
    method: 'GET',
    path: `/export/:file{${name}\\.[a-z]+}`,
    access: 'read',
    async answer(c, { caller }) {
      const ending = c.req.param('file')!.slice(`${name}.`.length);
      const format = endings.includes(ending) ? FORMATS[ending] : undefined;
      if (!format)
        throw new TallyError('NOT_FOUND', `There is no export of ${name} as ${ending}: ${endings.join(', ')}.`);
      await rates.take('export', caller.id);

      const query = schema.parse(questionOf(queryOf(c.req.url, LISTS)));
      const filters = { ...query, merchantIds: merchantsFor(caller, query.merchantIds) };
      const gzip = !COMPRESSED.includes(ending) && acceptsEncoding(c.req.header('accept-encoding'), 'gzip');
      const asked = { callerId: caller.id, url: c.req.url, gzip };
      const part = downloads.resume(asked, c.req.header('range'), c.req.header('if-range'));
      if (part) return c.body(part.body, part.status, part.headers);

      const { coverage, table } = await answer(filters, caller);
      const { body, status, headers } = await downloads.open(asked, table, format, {
        'content-type': format.contentType,
        ...(gzip && { 'content-encoding': 'gzip' }),
        vary: 'accept-encoding',
        'content-disposition': `attachment; filename="${fileOf(name, query)}.${ending}"`,
        'cache-control': 'no-store',
        'x-tally-data-source': coverage.dataSource,
        'x-tally-as-of': coverage.asOf ?? '',
        'x-tally-complete': String(coverage.complete),
      });
      return c.body(body, status, headers);
    },
  });
  return [
    route(
      'usage',
      Object.keys(FORMATS),
      ExportQuery,
      async ({ by, interval, timeZone = 'UTC', ...filters }, caller) => {
        assertRange(filters, maxDays);
        if (interval) {
          const groupBy = by as Exclude<typeof by, string[]>;
          const series = { ...filters, interval, timeZone, groupBy };
          const { points, coverage } = opened(await read.timeseries(series, caller.id));
          return { coverage, table: await seriesOf(points, series, labels) };
        }
        const coverage = await freshness.cover(filters);
        // An imported snapshot has sums by one grouping.
        const imported = await documents.within(filters, typeof by === 'string' ? kindsOf(filters, by) : undefined);
        return {
          coverage: { ...coverage, complete: coverage.complete && imported.complete },
          table: tableOf({ ...filters, by }, { db, labels, imported: imported.parts }),
        };
      },
    ),
    route('meter', Object.keys(FORMATS), MeterQuery, async (question, caller) => {
      const { rows, coverage } = opened(await readMeter(question, caller.id));
      return { coverage, table: meterOf(rows, question) };
    }),
    route('events', ['csv', 'ndjson'], Filters, async (filters) => {
      assertRange(filters, maxDays);
      const coverage = await freshness.cover(filters);
      const imported = await documents.within(filters, undefined);
      const gap = await db.usage.daysWithoutEntries(filters);
      return {
        coverage: { ...coverage, complete: coverage.complete && imported.complete && !gap },
        table: eventsOf(filters, db),
      };
    }),
  ];
}

/** Returns the name of a file, without its ending. */
function fileOf(name: string, query: object): string {
  const { meter, startDate, endDate, from, to } = query as Partial<Record<string, string>>;
  return `${meter ?? name}-${startDate ?? from?.slice(0, 10)}-to-${endDate ?? to?.slice(0, 10)}`;
}

/**
 * A list given once is split at its commas; a repeated one is not, so `userIds=&userIds=a,b` selects `a,b`. One
 * grouping is no list, and a percentile is a number.
 */
function questionOf(query: Record<string, string | string[]>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(query).map(([name, value]) => {
      if (typeof value === 'string') return [name, name === 'percentile' && value !== '' ? Number(value) : value];
      const values = value.length === 1 ? value[0]!.split(',') : value;
      const given = values.filter((each) => each !== '');
      return [name, name === 'by' && given.length === 1 ? given[0] : given];
    }),
  );
}
