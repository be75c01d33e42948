import {
  addDays,
  type Day,
  dayOf,
  type Meter,
  type MeterWindow,
  monthOf,
  parseTime,
  QUARTER_HOUR_MS,
  type StoredEntry,
  startOfDay,
  TallyError,
} from '@tally/contracts';
import { type AskAnalytics, meterRows } from './ask.ts';
import { cloudEventsRoute } from './cloudevents.ts';
import { isRecord, metricOf } from './foreign-event.ts';
import type { MeteredFields } from './metered-fields.ts';
import { merchantOf } from './naming.ts';
import { newestEvents, RECENT_DAYS } from './newest.ts';
import { problemDetails } from './problem-details.ts';
import { momentIn, oneOf, wholeIn } from './query.ts';
import type { Source, SourceRequest } from './source.ts';

const BASE = '/sources/openmeter/api/v1';
const EVENTS_V2 = '/sources/openmeter/api/v2/events';
/** OpenMeter's names of aggregations, and ours; it has others, which Tally cannot answer exactly. */
const AGGREGATIONS = {
  SUM: 'SUM',
  COUNT: 'COUNT',
  MAX: 'MAX',
  MIN: 'MIN',
  LATEST: 'LATEST',
  UNIQUE_COUNT: 'UNIQUE',
} as const;

/** OpenMeter's events, meters, queries of meters, and subjects. A subject is a merchant. */
export function openmeter({ metered, ask }: { metered: MeteredFields; ask: AskAnalytics }): Source {
  return {
    name: 'openmeter',
    prefixes: ['/sources/openmeter'],
    errorBody: problemDetails,
    events: [cloudEventsRoute(`${BASE}/events`, metered)],
    others: [
      { method: 'GET', path: `${BASE}/events`, access: 'read', answer: (request) => listEvents(request, ask) },
      { method: 'GET', path: EVENTS_V2, access: 'read', answer: (request) => listEventsV2(request, ask) },
      {
        method: 'GET',
        path: `${BASE}/meters`,
        access: 'read',
        answer: listMeters,
      },
      { method: 'POST', path: `${BASE}/meters`, access: 'admin', answer: (request) => createMeter(request, metered) },
      {
        method: 'GET',
        path: `${BASE}/meters/:meter`,
        access: 'read',
        answer: async (request) => Response.json(presentMeter(await meterOf(request))),
      },
      { method: 'PUT', path: `${BASE}/meters/:meter`, access: 'admin', answer: updateMeter },
      {
        method: 'DELETE',
        path: `${BASE}/meters/:meter`,
        access: 'admin',
        answer: (request) => removeMeter(request, metered),
      },
      {
        method: 'GET',
        path: `${BASE}/meters/:meter/query`,
        access: 'read',
        answer: (request) => answerQuery(request, fromParameters(request.query), ask),
      },
      {
        method: 'POST',
        path: `${BASE}/meters/:meter/query`,
        access: 'read',
        answer: (request) => answerQuery(request, fromBody(request), ask),
      },
      {
        method: 'GET',
        path: `${BASE}/meters/:meter/group-by/:key/values`,
        access: 'read',
        answer: async (request) => {
          const meter = await meterOf(request);
          return answerValues(request, meter, known(meter, request.params.key!), ask);
        },
      },
      {
        method: 'GET',
        path: `${BASE}/meters/:meter/subjects`,
        access: 'read',
        answer: async (request) => answerValues(request, await meterOf(request), 'merchant', ask),
      },
      { method: 'GET', path: `${BASE}/subjects`, access: 'read', answer: (request) => answerSubjects(request, ask) },
      { method: 'POST', path: `${BASE}/subjects`, access: 'admin', answer: (request) => writeSubjects(request, ask) },
      {
        method: 'GET',
        path: `${BASE}/subjects/:subject`,
        access: 'read',
        answer: (request) => getSubject(request, ask),
      },
      {
        method: 'DELETE',
        path: `${BASE}/subjects/:subject`,
        access: 'admin',
        answer: (request) => removeSubject(request, ask),
      },
    ],
  };
}

const invalid = (message: string) => new TallyError('INVALID_INPUT', message);

async function metersOf({ call }: SourceRequest): Promise<Meter[]> {
  const { rows } = (await call('meters.list', {})) as { rows: Meter[] };
  return rows.filter(({ id, aggregation }) => id !== null && aggregation !== 'PERCENTILE');
}

const PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;
const MAX_PAGE = 1_000_000;
const ORDERS = ['key', 'name', 'aggregation', 'createdAt', 'updatedAt'] as const;

async function listMeters(request: SourceRequest): Promise<Response> {
  const { query } = request;
  const [page, size] = [wholeIn(query, 'page', 1, MAX_PAGE), wholeIn(query, 'pageSize', PAGE_SIZE, MAX_PAGE_SIZE)];
  const [by, order] = [oneOf(query, 'orderBy', ORDERS), oneOf(query, 'order', ['ASC', 'DESC'] as const)];
  const all = await metersOf(request);
  const ranked = (meter: Meter) => (by && meter[by]) ?? '';
  if (by) all.sort((a, b) => (ranked(a) < ranked(b) ? -1 : ranked(a) > ranked(b) ? 1 : 0));
  if (order === 'DESC') all.reverse();
  return Response.json(all.slice((page - 1) * size, page * size).map(presentMeter));
}

async function meterOf(request: SourceRequest): Promise<Meter> {
  const { meter: named } = request.params;
  const found = (await metersOf(request)).find(({ id, key }) => key === named || id === named);
  if (!found) throw new TallyError('NOT_FOUND', `There is no meter ${named!.slice(0, 80)}.`);
  return found;
}

const USERS = ['user', 'user_id', 'userId'];

/** Returns the dimension of a path such as `$.model`, and the name it is grouped by. */
function dimensionOf(path: unknown): string {
  const name = fieldOf(path);
  if (name === 'model' || name === 'provider') return name;
  return USERS.includes(name) ? 'user' : `property:${name}`;
}

function fieldOf(path: unknown): string {
  if (typeof path !== 'string' || !/^\$\.[^[\]*?]+$/.test(path))
    throw invalid('Expected the path of one field, such as $.tokens.');
  return path.slice(2);
}

const nameOf = (dimension: string) => dimension.replace(/^property:/, '');

function presentMeter({
  id,
  key,
  name,
  aggregation,
  eventType,
  valueProperty,
  metricType,
  dimensions,
  ...meter
}: Meter) {
  const value = valueProperty ?? metricType;
  return {
    id,
    slug: key,
    name,
    aggregation: aggregation === 'UNIQUE' ? 'UNIQUE_COUNT' : aggregation,
    eventType: eventType ?? '*',
    ...(value !== null && { valueProperty: `$.${nameOf(value)}` }),
    groupBy: Object.fromEntries(dimensions.map((each) => [nameOf(each), `$.${nameOf(each)}`])),
    createdAt: meter.createdAt,
    updatedAt: meter.updatedAt,
  };
}

async function createMeter(request: SourceRequest, metered: MeteredFields): Promise<Response> {
  const { slug, name, aggregation, eventType, valueProperty, groupBy = {} } = objectIn(request);
  if (typeof aggregation !== 'string' || !Object.hasOwn(AGGREGATIONS, aggregation))
    throw invalid(
      `Tally has no exact aggregation ${String(aggregation).slice(0, 40)}; it has ${Object.keys(AGGREGATIONS).join(', ')}.`,
    );
  if (!isRecord(groupBy)) throw invalid('groupBy: expected names with the paths of fields.');
  const own = AGGREGATIONS[aggregation as keyof typeof AGGREGATIONS];
  const dimensions = Object.entries(groupBy).map(([key, path]) => {
    const dimension = dimensionOf(path);
    if (key !== fieldOf(path) && key !== dimension)
      throw invalid(
        `groupBy.${key.slice(0, 40)}: Tally groups by the name of the field; call it ${nameOf(dimension)}.`,
      );
    return dimension;
  });
  const created = (await request.call('meters.create', {
    key: slug,
    ...(typeof name === 'string' && { name }),
    aggregation: own,
    ...(eventType !== undefined && eventType !== '*' && { eventType }),
    ...(own === 'UNIQUE' && { valueProperty: dimensionOf(valueProperty) }),
    // Of any event, including fractions: up to 9 decimals.
    ...(own !== 'UNIQUE' && own !== 'COUNT' && { valueProperty: fieldOf(valueProperty), scale: 9 }),
    dimensions,
  })) as Meter;
  metered.changed();
  return Response.json(presentMeter(created), { status: 201 });
}

/** Only the name of a meter can change; what it counts stays. */
async function updateMeter(request: SourceRequest): Promise<Response> {
  const meter = await meterOf(request);
  const { name, groupBy } = objectIn(request);
  if (groupBy !== undefined) {
    if (!isRecord(groupBy)) throw invalid('groupBy: expected names with the paths of fields.');
    const wanted = new Set(Object.values(groupBy).map(dimensionOf));
    if (wanted.size !== meter.dimensions.length || !meter.dimensions.every((each) => wanted.has(each)))
      throw invalid('groupBy: Tally does not change the dimensions of a meter; create another one.');
  }
  if (typeof name !== 'string') return Response.json(presentMeter(meter));
  return Response.json(presentMeter((await request.call('meters.update', { key: meter.key, name })) as Meter));
}

async function removeMeter(request: SourceRequest, metered: MeteredFields): Promise<Response> {
  const { key } = await meterOf(request);
  await request.call('meters.remove', { key });
  metered.changed();
  return new Response(null, { status: 204 });
}

const MAX_LISTED = 100;

/** Lists events among the newest 1,000 of a subject, with what Tally keeps of their data. */
async function listEvents(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const { query } = request;
  for (const name of ['customerId', 'ingestedAtFrom', 'ingestedAtTo'])
    if (query.has(name)) throw invalid(`${name}: Tally does not have it; use subject, from and to.`);
  const limit = wholeIn(query, 'limit', MAX_LISTED, MAX_LISTED);
  const [from, to, id] = [momentIn(query, 'from'), momentIn(query, 'to'), query.get('id') ?? ''];
  const subject = query.get('subject');
  const events = await newestEvents(request, ask, subject === null ? null : (merchantOf(subject) ?? subject));
  const wanted = events.filter((event) => {
    const at = Date.parse(event.time);
    return isOurs(event) && at >= (from ?? at) && at < (to ?? at + 1) && event.id.includes(id);
  });
  return Response.json(wanted.slice(0, limit).map(presentEvent));
}

const isOurs = ({ id, properties }: StoredEntry) => id.startsWith('ce:') || properties.event_source !== undefined;

/** Like listEvents, in pages; `filter` is JSON, such as `{"subject":{"$eq":"acme"}}`. */
async function listEventsV2(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const { query } = request;
  const [limit, cursor] = [wholeIn(query, 'limit', MAX_LISTED, MAX_LISTED), query.get('cursor')];
  const { subjects, matches } = filterIn(query.get('filter'));
  const found = await Promise.all(
    (subjects ?? [null]).map((subject) =>
      newestEvents(request, ask, subject === null ? null : (merchantOf(subject) ?? subject)),
    ),
  );
  const placeOf = ({ time, merchantId, id }: StoredEntry) => `${time} ${merchantId} ${id}`;
  const wanted = found
    .flat()
    .filter((event) => isOurs(event) && matches(event))
    .map((event) => ({ event, place: placeOf(event) }))
    .sort((a, b) => (a.place < b.place ? 1 : -1));
  const after = cursor === null ? undefined : Buffer.from(cursor, 'base64url').toString();
  const rest = after === undefined ? wanted : wanted.filter(({ place }) => place < after);
  const page = rest.slice(0, limit);
  const nextCursor = rest.length > limit ? Buffer.from(page.at(-1)!.place).toString('base64url') : undefined;
  return Response.json({ items: page.map(({ event }) => presentEvent(event)), nextCursor });
}

const MAX_SUBJECTS = 20;
const TIMES: Record<string, (at: number, bound: number) => boolean> = {
  $gt: (at, bound) => at > bound,
  $gte: (at, bound) => at >= bound,
  $lt: (at, bound) => at < bound,
  $lte: (at, bound) => at <= bound,
};

/** Reads a filter of events: `$eq` and `$in` of texts, bounds of `time`. Throws INVALID_INPUT for any other. */
function filterIn(text: string | null): { subjects?: string[]; matches(event: StoredEntry): boolean } {
  const tests: ((event: StoredEntry) => boolean)[] = [];
  const matches = (event: StoredEntry) => tests.every((test) => test(event));
  if (text === null) return { matches };
  let filter: unknown;
  try {
    filter = JSON.parse(text);
  } catch {
    throw invalid('filter: expected JSON.');
  }
  if (!isRecord(filter)) throw invalid('filter: expected an object.');
  let subjects: string[] | undefined;
  for (const [name, given] of Object.entries(filter)) {
    const rules = isRecord(given) ? given : {};
    if (name === 'time') {
      for (const [rule, value] of Object.entries(rules)) {
        const [test, bound] = [Object.hasOwn(TIMES, rule) && TIMES[rule], Date.parse(String(value))];
        if (!test || Number.isNaN(bound)) throw invalid(`filter.time: expected ${Object.keys(TIMES).join(', ')}.`);
        tests.push(({ time }) => test(Date.parse(time), bound));
      }
      continue;
    }
    const { $eq, $in = [$eq], ...others } = rules;
    const values = textsOf($in, `filter.${name}`);
    if (!Object.hasOwn(FIELDS, name) || Object.keys(others).length > 0)
      throw invalid(
        `filter.${name.slice(0, 40)}: Tally has time, and $eq and $in of ${Object.keys(FIELDS).join(', ')}.`,
      );
    if (name === 'subject') subjects = values;
    else tests.push((event) => values.includes(FIELDS[name]!(event)));
  }
  if (subjects && subjects.length > MAX_SUBJECTS) throw invalid(`filter.subject: at most ${MAX_SUBJECTS} values.`);
  return { ...(subjects && { subjects }), matches };
}

const FIELDS: Record<string, (event: StoredEntry) => string> = {
  subject: ({ merchantId }) => merchantId,
  id: (event) => ownId(event),
  type: ({ properties }) => String(properties.event_type),
  source: ({ properties }) => String(properties.event_source),
};

/** The id that the producer gave to an event. */
function ownId({ id, properties }: Pick<StoredEntry, 'id' | 'properties'>): string {
  const start = `ce:${properties.event_source} `;
  return id.startsWith(start) ? id.slice(start.length) : id;
}

function presentEvent({ id, merchantId, time, properties, metrics, model, provider, userId }: StoredEntry): object {
  const { event_type: type, event_source: source, ...kept } = properties;
  const data = Object.entries(kept).map(([name, value]) => {
    const isAmount = typeof value === 'string' && String(Number(value)) === value;
    return [name, isAmount && metrics[metricOf(name)] === value ? Number(value) : value];
  });
  return {
    event: {
      specversion: '1.0',
      ...{ id: ownId({ id, properties }), source, type, subject: merchantId, time },
      data: {
        ...Object.fromEntries(data),
        ...(model !== null && { model }),
        ...(provider !== null && { provider }),
        ...(userId !== null && { user: userId }),
      },
    },
  };
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

function textsOf(value: unknown, name: string): string[] {
  const list = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  if (!list.every((each) => typeof each === 'string')) throw invalid(`${name.slice(0, 80)}: expected texts.`);
  return list;
}

const WINDOWS = { HOUR: 'hour', DAY: 'day', MONTH: 'month' } as const;

async function answerQuery(request: SourceRequest, query: Query, ask: AskAnalytics): Promise<Response> {
  const meter = await meterOf(request);
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
  const groupBy = names.map((name) => (name === 'subject' ? 'merchant' : known(meter, name)));
  const filters = Object.fromEntries(
    Object.entries(query.filters).map(([name, values]) => [known(meter, name), values]),
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

/** Returns the dimension of a meter that OpenMeter's clients call `name`. */
function known({ key, dimensions }: Meter, name: string): string {
  const found = dimensions.find((each) => nameOf(each) === name || (each === 'user' && USERS.includes(name)));
  if (found === undefined) throw invalid(`The meter ${key} is not grouped by ${name.slice(0, 80)}.`);
  return found;
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
  request: SourceRequest,
  meter: Meter,
  dimension: string,
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

const startOfRecent = (now: number) => Date.parse(addDays(dayOf(now), -RECENT_DAYS));

async function recentSubjects(request: SourceRequest, ask: AskAnalytics, merchantIds?: string[]) {
  const { now } = request;
  const range = { startDate: dayOf(startOfRecent(now)), endDate: dayOf(now) };
  const { merchants } = await ask(request, (client) =>
    client.analytics.filterOptions.query({ ...range, ...(merchantIds && { merchantIds }) }),
  );
  return merchants.map(({ id, label }) => presentSubject(id, label));
}

const answerSubjects = async (request: SourceRequest, ask: AskAnalytics): Promise<Response> =>
  Response.json(await recentSubjects(request, ask));

const subjectIn = ({ params }: SourceRequest) => merchantOf(params.subject!) ?? params.subject!;

/** A subject that has a name in the directory, or had usage in the last 30 days. */
async function getSubject(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const merchantId = subjectIn(request);
  const { rows } = await ask(request, (client) =>
    client.directory.list.query({ kind: 'merchant', merchantId, limit: 1 }),
  );
  const found = rows[0]
    ? presentSubject(rows[0].id, rows[0].name)
    : (await recentSubjects(request, ask, [merchantId]))[0];
  if (!found) throw new TallyError('NOT_FOUND', `There is no subject ${merchantId.slice(0, 80)}.`);
  return Response.json(found);
}

/** Takes the name of a subject away; its usage stays. */
async function removeSubject(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const ids = [subjectIn(request)];
  await ask(request, (client) => client.directory.remove.mutate({ kind: 'merchant', ids }));
  return new Response(null, { status: 204 });
}

async function writeSubjects(request: SourceRequest, ask: AskAnalytics): Promise<Response> {
  const given: unknown = jsonIn(request);
  const subjects = (Array.isArray(given) ? given : [given]).map((each) => {
    const { key, displayName } = isRecord(each) ? each : {};
    if (typeof key !== 'string' || key === '') throw invalid('A subject needs a key.');
    return { key, name: typeof displayName === 'string' && displayName.trim() !== '' ? displayName : key };
  });
  const entries = subjects.map(({ key, name }) => ({ kind: 'merchant' as const, id: merchantOf(key) ?? key, name }));
  await ask(request, (client) => client.directory.upsert.mutate({ entries }));
  return Response.json(subjects.map(({ key, name }) => presentSubject(key, name)));
}

const presentSubject = (key: string, displayName: string) => ({ id: key, key, displayName });

function jsonIn({ body }: SourceRequest): unknown {
  try {
    return JSON.parse(body.toString());
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
}

function objectIn(request: SourceRequest): Record<string, unknown> {
  const value = jsonIn(request);
  if (!isRecord(value)) throw invalid('Expected an object.');
  return value;
}
