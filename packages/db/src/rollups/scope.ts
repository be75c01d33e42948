import { type Day, type Filters, type GroupBy, MEASURES, type PlanPart } from '@tally/contracts';
import type { Bind } from '../run-sql.ts';
import { TEAM, withTeams } from './teams.ts';

/** Selects events, and the rollups to read them from: every part must have the requested dimensions. */
export type Scope = Omit<Filters, 'startDate' | 'endDate'> & {
  parts: readonly PlanPart[];
  /** The moment after which `usage_later` was counted. */
  asKnownOn?: string | undefined;
};

/** Dimensions of an event, as columns of the rollups. */
export const DIMENSIONS: Record<GroupBy, string> = {
  user: 'user_id',
  model: 'model',
  provider: 'provider',
  apiKey: 'api_key',
  merchant: 'merchant_id',
};

/** The same by the names of an event's fields. */
export const ALL_DIMENSIONS = {
  merchantId: 'merchant_id',
  userId: 'user_id',
  apiKey: 'api_key',
  model: 'model',
  provider: 'provider',
};

/** Measures that only imported snapshots leave open; read only from them. */
const UNTOLD = ['other_tokens', 'untold_requests'];

/** Returns true if a scope reads imported snapshots. */
export const readsDocuments = ({ parts }: Scope) => parts.some(({ cube }) => cube === 'daily_usage_cache');
/** Returns the measures of a scope: with imported snapshots, also those that they leave open. */
export const measuresOf = (scope: Scope) => (readsDocuments(scope) ? [...MEASURES, ...UNTOLD] : MEASURES);

export const max = (left: Day, right: Day) => (left > right ? left : right);
export const min = (left: Day, right: Day) => (left < right ? left : right);

/** Returns a function that reads the rows of a table, or of a view, that match a condition and all filters. */
export function filtered(filters: Omit<Scope, 'parts'>, bind: Bind): (table: string, condition: string) => string {
  const lists = {
    merchant_id: filters.merchantIds,
    user_id: filters.userIds,
    model: filters.models,
    provider: filters.providers,
    api_key: filters.apiKeys,
    [TEAM]: filters.teams,
  };
  const conditions = Object.entries(lists).flatMap(([column, list]) => {
    // A merchant may have the name `unknown`; elsewhere it stands for no value.
    const values = list?.map((value) => (value === 'unknown' && column !== 'merchant_id' ? '' : value));
    return values?.length ? [`and ${column} = any(${bind(values)}::text[])`] : [];
  });
  const join = filters.teams?.length ? withTeams : (table: string) => table;
  return (table, condition) => `from ${join(table)} where ${[condition, ...conditions].join(' ')}`;
}
