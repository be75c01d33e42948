import type { Measures } from '@tally/contracts';
import type { Kind } from './quantity.ts';

/** The measures of analytics, each with the metric type of the journal that explains it. */
export const MEASURES = [
  { id: 'cost', label: 'Cost', metric: 'cost', kind: 'money' },
  { id: 'requests', label: 'Requests', metric: 'requests', kind: 'count' },
  { id: 'failedRequests', label: 'Failed requests', metric: 'failed_requests', kind: 'count' },
  { id: 'totalTokens', label: 'Tokens', metric: 'total_tokens', kind: 'count' },
  { id: 'promptTokens', label: 'Input tokens', metric: 'prompt_tokens', kind: 'count' },
  { id: 'completionTokens', label: 'Output tokens', metric: 'completion_tokens', kind: 'count' },
] as const satisfies readonly { id: MeasureId; label: string; metric: string; kind: Kind }[];

export type MeasureId = Exclude<keyof Measures, 'successRate'>;
export const measureOf = (id: MeasureId) => MEASURES.find((measure) => measure.id === id)!;
export const isMeasure = (id: unknown): id is MeasureId => MEASURES.some((measure) => measure.id === id);
export const measureOfMetric = (metric: string) => MEASURES.find((measure) => measure.metric === metric);
export const kindOfMetric = (metric: string): Kind => (metric === 'cost' ? 'money' : 'count');
export const labelOfMetric = (metric: string): string =>
  measureOfMetric(metric)?.label ?? metric.replaceAll('_', ' ').replace(/^./, (first) => first.toUpperCase());

/** The dimensions to group and filter by; `name` and `plural` are for the middle of a sentence. */
export const DIMENSIONS = [
  {
    id: 'merchant',
    label: 'Merchant',
    name: 'merchant',
    plural: 'merchants',
    filter: 'merchants',
    api: 'merchantIds',
  },
  { id: 'team', label: 'Team', name: 'team', plural: 'teams', filter: 'teams', api: 'teams' },
  { id: 'user', label: 'User', name: 'user', plural: 'users', filter: 'users', api: 'userIds' },
  { id: 'apiKey', label: 'API key', name: 'API key', plural: 'API keys', filter: 'keys', api: 'apiKeys' },
  { id: 'model', label: 'Model', name: 'model', plural: 'models', filter: 'models', api: 'models' },
  { id: 'provider', label: 'Provider', name: 'provider', plural: 'providers', filter: 'providers', api: 'providers' },
] as const;

export type DimensionId = (typeof DIMENSIONS)[number]['id'];
export const dimensionOf = (id: DimensionId) => DIMENSIONS.find((dimension) => dimension.id === id)!;
export const isDimension = (id: unknown): id is DimensionId => DIMENSIONS.some((dimension) => dimension.id === id);

/** A property of events that a meter has as a dimension. */
export type PropertyId = `property:${string}`;
/** What a view can be grouped by; only meters have properties. */
export type GroupId = DimensionId | PropertyId;
export const isProperty = (id: unknown): id is PropertyId => typeof id === 'string' && /^property:.{1,64}$/u.test(id);
export const isGroup = (id: unknown): id is GroupId => isDimension(id) || isProperty(id);

/** Returns the names of a dimension or a property. */
export function namesOf(id: GroupId): { label: string; name: string; plural: string } {
  if (!isProperty(id)) return dimensionOf(id);
  const name = id.slice('property:'.length);
  return { label: name.replace(/^./u, (first) => first.toUpperCase()), name, plural: `values of ${name}` };
}

/** Filters in the form of an address. */
export type FilterSearch = {
  merchants?: string[];
  teams?: string[];
  users?: string[];
  keys?: string[];
  models?: string[];
  providers?: string[];
};

const MAX_VALUES = 100;
/** The most dimensions of a meter. */
const MAX_PROPERTIES = 4;

/** Parses filters from an address; leaves out invalid values. */
export function readFilters(search: Record<string, unknown>): FilterSearch {
  const filters: FilterSearch = {};
  for (const { filter } of DIMENSIONS) {
    const given = search[filter];
    const values = (Array.isArray(given) ? given : given === undefined ? [] : [given]).map(String).filter(Boolean);
    if (values.length > 0) filters[filter] = values.slice(0, MAX_VALUES);
  }
  return filters;
}

/** Filters by properties in the form of an address. */
export type PropertyFilters = Record<PropertyId, string[]>;

/** Parses filters by properties from an address; leaves out invalid ones. */
export function readProperties(given: unknown): PropertyFilters | undefined {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return undefined;
  const read = Object.entries(given).flatMap(([id, values]) =>
    isProperty(id) && Array.isArray(values) && values.length > 0
      ? [[id, values.slice(0, MAX_VALUES).map(String)] as const]
      : [],
  );
  return read.length > 0 ? Object.fromEntries(read.slice(0, MAX_PROPERTIES)) : undefined;
}

/** Returns filters in the API's form. */
export function apiFilters(filters: FilterSearch) {
  const named: {
    merchantIds?: string[];
    teams?: string[];
    userIds?: string[];
    apiKeys?: string[];
    models?: string[];
    providers?: string[];
  } = {};
  for (const { filter, api } of DIMENSIONS) {
    const values = filters[filter];
    if (values && values.length > 0) named[api] = values;
  }
  return named;
}
