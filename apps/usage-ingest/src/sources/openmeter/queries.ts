import {
  type Day,
  dayOf,
  type Meter,
  type MeterWindow,
  monthOf,
  parseTime,
  QUARTER_HOUR_MS,
  startOfDay,
} from '@tally/contracts';
import { type AskAnalytics, meterRows } from '../ask.ts';
import { isRecord } from '../foreign-event.ts';
import type { SourceMeters } from '../meters.ts';
import { merchantOf } from '../naming.ts';
import { startOfRecent } from '../newest.ts';
import { momentIn } from '../query.ts';
import type { OtherRoute, SourceRequest } from '../source.ts';
import { dimensionNamed, meterOf } from './meters.ts';
import { BASE, invalid, objectIn, textsOf } from './request.ts';

/** Sums of a meter, and the values that it is grouped by. */
export function queryRoutes(meters: SourceMeters, ask: AskAnalytics): OtherRoute[] {
  const meter = `${BASE}/meters/:meter`;
  return [
    {
      method: 'GET',
      path: `${meter}/query`,
      access: 'read',
      answer: (request) => answerQuery({ request, query: fromParameters(request.query) }, meters, ask),
    },
    {
      method: 'POST',
      path: `${meter}/query`,
      access: 'read',
      answer: (request) => answerQuery({ request, query: fromBody(request) }, meters, ask),
    },
    {
      method: 'GET',
      path: `${meter}/group-by/:key/values`,
      access: 'read',
      async answer(request) {
        const found = await meterOf(request, meters);
        return answerValues({ request, meter: found, dimension: dimensionNamed(found, request.params.key!) }, ask);
      },
    },
    {
      method: 'GET',
      path: `${meter}/subjects`,
      access: 'read',
      answer: async (request) =>
        answerValues({ request, meter: await meterOf(request, meters), dimension: 'merchant' }, ask),
    },
  ];
}

type Query = {
  from?: string | undefined;
  to?: string | undefined;
  windowSize?: string | undefined;
  windowTimeZone?: string | undefined;
  subjects: string[];
  groupBy: string[];
  filters: Record<string, string[]>;
};

function fromParameters(query: URLSearchParams): Query {
  const filters: Record<string, string[]> = {};
  for (const [name, value] of query) {
    assertKnown(name.replace(/\[.*/s, ''));
    const [, key] = /^filterGroupBy\[([^\]]{1,80})\]$/.exec(name) ?? [];
    if (key !== undefined) filters[`${key}`] = [...(Object.hasOwn(filters, key) ? filters[key]! : []), value];
  }
  return {
    from: query.get('from') ?? undefined,
    to: query.get('to') ?? undefined,
    windowSize: query.get('windowSize') ?? undefined,
    windowTimeZone: query.get('windowTimeZone') ?? undefined,
    subjects: query.getAll('subject'),
    groupBy: query.getAll('groupBy'),
    filters,
  };
}

function fromBody(request: SourceRequest): Query {
  const body = objectIn(request);
  Object.keys(body).forEach(assertKnown);
  const text = (name: string) => {
    const value = body[name];
    if (value !== undefined && value !== null && typeof value !== 'string') throw invalid(`${name}: expected text.`);
    return value ?? undefined;
  };
  const given = body.filterGroupBy ?? {};
  if (!isRecord(given)) throw invalid('filterGroupBy: expected names with lists of values.');
  return {
    from: text('from'),
    to: text('to'),
    windowSize: text('windowSize'),
    windowTimeZone: text('windowTimeZone'),
    subjects: textsOf(body.subject, 'subject'),
    groupBy: textsOf(body.groupBy, 'groupBy'),
    filters: Object.fromEntries(Object.entries(given).map(([name, values]) => [name, textsOf(values, name)])),
  };
}

/** Refuses filters that Tally does not have: without them, an answer would be of more than was asked for. */
function assertKnown(name: string): void {
  if (name === 'filterCustomerId' || name === 'advancedMeterGroupByFilters')
    throw invalid(`${name}: Tally does not have it; use subject and filterGroupBy.`);
}

const WINDOWS = { HOUR: 'hour', DAY: 'day', MONTH: 'month' } as const;

async function answerQuery(
  { request, query }: { request: SourceRequest; query: Query },
  meters: SourceMeters,
  ask: AskAnalytics,
): Promise<Response> {
  const meter = await meterOf(request, meters);
  if (request.headers.get('accept')?.trim().startsWith('text/csv'))
    throw invalid('Tally answers this query as JSON; for CSV use GET /export/meter.csv.');
  const { windowSize, windowTimeZone: timeZone = 'UTC', subjects } = query;
  if (windowSize !== undefined && !Object.hasOwn(WINDOWS, windowSize))
    throw invalid(`Tally has no windows of ${windowSize.slice(0, 40)}; it has ${Object.keys(WINDOWS).join(', ')}.`);
  const window = windowSize === undefined ? 'total' : WINDOWS[windowSize as keyof typeof WINDOWS];
  const merchantIds = [...new Set(subjects.map((subject) => merchantOf(subject) ?? subject))];
  const keys = query.groupBy.filter((name) => name !== 'subject');
  // A filter by subject also groups by subject, like at OpenMeter. Tally has three groups: one subject needs none.
  const [only] = merchantIds.length === 1 && keys.length > 0 ? merchantIds : [];
  const isGrouped = only === undefined && (subjects.length > 0 || query.groupBy.includes('subject'));
  const names = [...new Set([...keys, ...(isGrouped ? ['subject'] : [])])];
  const groupBy = names.map((name) => (name === 'subject' ? 'merchant' : dimensionNamed(meter, name)));
  const filters = Object.fromEntries(
    Object.entries(query.filters).map(([name, values]) => [dimensionNamed(meter, name), values]),
  );
  const rows = await windowsOf({ query, window, timeZone, meter, now: request.now }, (range) =>
    meterRows(ask, request, {
      meter: meter.key,
      ...range,
      timeZone,
      ...(merchantIds.length > 0 && { merchantIds }),
      ...(groupBy.length > 0 && { groupBy }),
      ...(Object.keys(filters).length > 0 && { filters }),
    }),
  );
  const { from, to } = query;
  return Response.json({
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
    ...(windowSize !== undefined && { windowSize }),
    data: rows.map(({ start, end, group, value }) => ({
      value: Number(value),
      windowStart: start,
      windowEnd: end,
      subject: group.merchant ?? only ?? null,
      groupBy: Object.fromEntries(
        names.flatMap((name, index) => {
          const own = group[groupBy[index]!];
          return name === 'subject' ? [] : [[name, own === 'unknown' ? null : own]];
        }),
      ),
    })),
  });
}

type Row = { start: string; end: string; group: Record<string, string>; value: string };
type Range = { window: MeterWindow } & ({ from: string; to: string } | { startDate: Day; endDate: Day });

/**
 * Returns the rows of a range that may begin and end within a window, like at OpenMeter: such a window keeps its start
 * and its end, and has only the events of the range. A range without one end is completed: from the first day of the
 * meter, or to the end of the current window.
 */
async function windowsOf(
  {
    query,
    window,
    timeZone,
    meter,
    now,
  }: { query: Query; window: MeterWindow; timeZone: string; meter: Meter; now: number },
  rowsOf: (range: Range) => Promise<Row[]>,
): Promise<Row[]> {
  const [from, to] = [momentOf(query.from, 'from'), momentOf(query.to, 'to')];
  const firstDay = meter.history.from ?? (meter.createdAt ?? '').slice(0, 10);
  if (window === 'total')
    return rowsOf({
      window,
      from: new Date(from ?? startOfDay(firstDay)).toISOString(),
      to: new Date(to ?? (Math.floor(now / QUARTER_HOUR_MS) + 1) * QUARTER_HOUR_MS).toISOString(),
    });
  if (from !== undefined && to !== undefined && from >= to) throw invalid('`from` must be before `to`.');
  const first = from === undefined ? firstDay : dayIn(from, timeZone);
  const last = dayIn(to === undefined ? now : to - 1, timeZone);
  const days =
    window === 'month'
      ? { startDate: monthOf(first).startDate, endDate: monthOf(last).endDate }
      : { startDate: first, endDate: last };
  const rows: Row[] = [];
  const cut = new Map<string, Row>();
  for (const row of await rowsOf({ window, ...days })) {
    const [start, end] = [Date.parse(row.start), Date.parse(row.end)];
    if (end <= (from ?? start) || start >= (to ?? end)) continue;
    if (start < (from ?? start) || end > (to ?? end)) cut.set(row.start, row);
    else rows.push(row);
  }
  for (const { start, end } of cut.values()) {
    const part = {
      from: new Date(Math.max(Date.parse(start), from ?? 0)).toISOString(),
      to: to !== undefined && to < Date.parse(end) ? new Date(to).toISOString() : end,
    };
    rows.push(...(await rowsOf({ window: 'total', ...part })).map((row) => ({ ...row, start, end })));
  }
  return rows.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}

function momentOf(time: string | undefined, name: string): number | undefined {
  const ms = time === undefined ? undefined : parseTime(time);
  if (time !== undefined && ms === undefined) throw invalid(`\`${name}\` is not a time.`);
  return ms;
}

/** Returns the day of a moment in a time zone; throws INVALID_INPUT for an unknown zone. */
function dayIn(ms: number, timeZone: string): Day {
  try {
    return new Intl.DateTimeFormat('en-CA', { timeZone, dateStyle: 'short' }).format(ms);
  } catch {
    throw invalid('windowTimeZone: expected a name of the IANA time zone database.');
  }
}

/** The values of a dimension on the UTC days from `from` to `to`; default: the last 30 days. */
async function answerValues(
  { request, meter, dimension }: { request: SourceRequest; meter: Meter; dimension: string },
  ask: AskAnalytics,
): Promise<Response> {
  const { now, query } = request;
  const [from, to] = [momentIn(query, 'from') ?? startOfRecent(now), momentIn(query, 'to') ?? now];
  const range = { startDate: dayOf(from), endDate: dayOf(to) };
  const search = query.get('search') ?? '';
  const rows = await meterRows(ask, request, { meter: meter.key, ...range, groupBy: [dimension] });
  const values = new Set(rows.map(({ group }) => group[dimension]!));
  return Response.json([...values].filter((each) => each !== 'unknown' && each.includes(search)));
}
