import type { StoredEntry } from '@tally/contracts';
import type { AskAnalytics } from '../ask.ts';
import { isRecord, metricOf } from '../foreign-event.ts';
import { merchantOf } from '../naming.ts';
import { newestEvents } from '../newest.ts';
import { momentIn, wholeIn } from '../query.ts';
import type { OtherRoute, SourceRequest } from '../source.ts';
import { BASE, invalid, textsOf } from './request.ts';

const EVENTS_V2 = '/sources/openmeter/api/v2/events';

/** Lists of events, in both forms. */
export const eventRoutes = (ask: AskAnalytics): OtherRoute[] => [
  { method: 'GET', path: `${BASE}/events`, access: 'read', answer: (request) => listEvents(request, ask) },
  { method: 'GET', path: EVENTS_V2, access: 'read', answer: (request) => listEventsV2(request, ask) },
];

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
