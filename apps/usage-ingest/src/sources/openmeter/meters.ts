import { type Meter, TallyError } from '@tally/contracts';
import { isRecord } from '../foreign-event.ts';
import type { SourceMeters } from '../meters.ts';
import { oneOf, wholeIn } from '../query.ts';
import type { OtherRoute, SourceRequest } from '../source.ts';
import { BASE, invalid, objectIn } from './request.ts';

/** OpenMeter's names of aggregations, and ours; it has others, which Tally cannot answer exactly. */
const AGGREGATIONS = {
  SUM: 'SUM',
  COUNT: 'COUNT',
  MAX: 'MAX',
  MIN: 'MIN',
  LATEST: 'LATEST',
  UNIQUE_COUNT: 'UNIQUE',
} as const;

/** Meters: listed, created, renamed and removed. */
export function meterRoutes(meters: SourceMeters): OtherRoute[] {
  const [all, one] = [`${BASE}/meters`, `${BASE}/meters/:meter`];
  return [
    { method: 'GET', path: all, access: 'read', answer: (request) => listMeters(request, meters) },
    { method: 'POST', path: all, access: 'admin', answer: (request) => createMeter(request, meters) },
    {
      method: 'GET',
      path: one,
      access: 'read',
      answer: async (request) => Response.json(presentMeter(await meterOf(request, meters))),
    },
    { method: 'PUT', path: one, access: 'admin', answer: (request) => updateMeter(request, meters) },
    { method: 'DELETE', path: one, access: 'admin', answer: (request) => removeMeter(request, meters) },
  ];
}

const PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;
const MAX_PAGE = 1_000_000;
const ORDERS = ['key', 'name', 'aggregation', 'createdAt', 'updatedAt'] as const;

async function listMeters(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { query } = request;
  const [page, size] = [wholeIn(query, 'page', 1, MAX_PAGE), wholeIn(query, 'pageSize', PAGE_SIZE, MAX_PAGE_SIZE)];
  const [by, order] = [oneOf(query, 'orderBy', ORDERS), oneOf(query, 'order', ['ASC', 'DESC'] as const)];
  const all = await meters.list(request, Object.values(AGGREGATIONS));
  const ranked = (meter: Meter) => (by && meter[by]) ?? '';
  if (by) all.sort((a, b) => (ranked(a) < ranked(b) ? -1 : ranked(a) > ranked(b) ? 1 : 0));
  if (order === 'DESC') all.reverse();
  return Response.json(all.slice((page - 1) * size, page * size).map(presentMeter));
}

/** Returns the meter of a path, by its key or its id. Throws NOT_FOUND. */
export async function meterOf(request: SourceRequest, meters: SourceMeters): Promise<Meter> {
  const { meter: named } = request.params;
  const found = (await meters.list(request, Object.values(AGGREGATIONS))).find(
    ({ id, key }) => key === named || id === named,
  );
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

export const nameOf = (dimension: string) => dimension.replace(/^property:/, '');

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

async function createMeter(request: SourceRequest, meters: SourceMeters): Promise<Response> {
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
  const created = await meters.create(request, {
    key: slug,
    ...(typeof name === 'string' && { name }),
    aggregation: own,
    ...(eventType !== undefined && eventType !== '*' && { eventType }),
    ...(own === 'UNIQUE' && { valueProperty: dimensionOf(valueProperty) }),
    // Of any event, including fractions: up to 9 decimals.
    ...(own !== 'UNIQUE' && own !== 'COUNT' && { valueProperty: fieldOf(valueProperty), scale: 9 }),
    dimensions,
  });
  return Response.json(presentMeter(created), { status: 201 });
}

async function updateMeter(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const meter = await meterOf(request, meters);
  const { name, groupBy } = objectIn(request);
  if (groupBy !== undefined) {
    if (!isRecord(groupBy)) throw invalid('groupBy: expected names with the paths of fields.');
    const wanted = new Set(Object.values(groupBy).map(dimensionOf));
    if (wanted.size !== meter.dimensions.length || !meter.dimensions.every((each) => wanted.has(each)))
      throw invalid('groupBy: Tally does not change the dimensions of a meter; create another one.');
  }
  if (typeof name !== 'string') return Response.json(presentMeter(meter));
  return Response.json(presentMeter(await meters.rename(request, meter.key, name)));
}

async function removeMeter(request: SourceRequest, meters: SourceMeters): Promise<Response> {
  const { key } = await meterOf(request, meters);
  await meters.remove(request, key);
  return new Response(null, { status: 204 });
}

/** Returns the dimension of a meter that OpenMeter's clients call `name`. */
export function dimensionNamed({ key, dimensions }: Meter, name: string): string {
  const found = dimensions.find((each) => nameOf(each) === name || (each === 'user' && USERS.includes(name)));
  if (found === undefined) throw invalid(`The meter ${key} is not grouped by ${name.slice(0, 80)}.`);
  return found;
}
