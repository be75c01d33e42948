import { ExportQuery, Filters, TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { merchantsFor, queryOf, type RateLimit, type Route } from '@tally/service';
import type { z } from 'zod';
import { assertRange } from '../dates.ts';
import { type Documents, kindsOf } from '../documents.ts';
import type { Freshness } from '../fresh.ts';
import type { Labels } from '../labels.ts';
import type { Downloads } from './downloads.ts';
import { FORMATS } from './formats.ts';
import { eventsOf, type Table, tableOf } from './table.ts';

export type ExportOptions = {
  db: Db;
  labels: Labels;
  freshness: Freshness;
  documents: Documents;
  rates: RateLimit;
  downloads: Downloads;
  maxDays: number;
};

const LISTS = ['merchantIds', 'userIds', 'models', 'providers', 'apiKeys', 'teams', 'by'] as const;

/** Formats with compression of their own. */
const COMPRESSED = ['parquet', 'xlsx'];

/**
 * GET /export/usage.{csv,json,ndjson,parquet,xlsx}: the filters and `by` of a breakdown as query parameters, a list as
 * a repeated parameter or as `name=a,b`. GET /export/events.{csv,ndjson}: the events in the journal, by the same
 * filters. `x-tally-*` headers have the coverage of the file.
 */
export function exportRoutes({ db, labels, freshness, documents, rates, downloads, maxDays }: ExportOptions): Route[] {
  const route = <Query extends Filters>(
    name: 'usage' | 'events',
    endings: readonly string[],
    schema: z.ZodType<Query>,
    read: (filters: Query) => Promise<{ complete: boolean; table: Table }>,
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
      assertRange(query, maxDays);
      const filters = { ...query, merchantIds: merchantsFor(caller, query.merchantIds) };
      const coverage = await freshness.cover(filters);
      const { complete, table } = await read(filters);
      const gzip = !COMPRESSED.includes(ending) && acceptsGzip(c.req.header('accept-encoding'));
      return c.body(await downloads.open(caller.id, table, format, { gzip }), 200, {
        'content-type': format.contentType,
        ...(gzip && { 'content-encoding': 'gzip' }),
        vary: 'accept-encoding',
        'content-disposition': `attachment; filename="${name}-${filters.startDate}-to-${filters.endDate}.${ending}"`,
        'cache-control': 'no-store',
        'x-tally-data-source': coverage.dataSource,
        'x-tally-as-of': coverage.asOf ?? '',
        'x-tally-complete': String(coverage.complete && complete),
      });
    },
  });
  return [
    route('usage', Object.keys(FORMATS), ExportQuery, async (filters) => {
      const { by } = filters;
      // An imported snapshot has sums by one grouping.
      const imported = await documents.within(filters, typeof by === 'string' ? kindsOf(filters, by) : undefined);
      return { complete: imported.complete, table: tableOf(filters, { db, labels, imported: imported.parts }) };
    }),
    route('events', ['csv', 'ndjson'], Filters, async (filters) => {
      const imported = await documents.within(filters, undefined);
      const gap = await db.usage.daysWithoutEntries(filters);
      return { complete: imported.complete && !gap, table: eventsOf(filters, db) };
    }),
  ];
}

/** Returns true if a header allows gzip (RFC 9110, 12.5.3). */
function acceptsGzip(header: string | undefined): boolean {
  const weights = (header ?? '').split(',').map((each) =>
    each
      .trim()
      .toLowerCase()
      .split(/\s*;\s*q=/),
  );
  const weight = weights.find(([coding]) => coding === 'gzip') ?? weights.find(([coding]) => coding === '*');
  return weight !== undefined && Number(weight[1] ?? 1) > 0;
}

/**
 * A list given once is split at its commas; a repeated one is not, so `userIds=&userIds=a,b` selects `a,b`. One
 * grouping is no list.
 */
function questionOf(query: Record<string, string | string[]>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(query).map(([name, value]) => {
      if (typeof value === 'string') return [name, value];
      const values = value.length === 1 ? value[0]!.split(',') : value;
      const given = values.filter((each) => each !== '');
      return [name, name === 'by' && given.length === 1 ? given[0] : given];
    }),
  );
}
