import type { Grouping } from '@tally/contracts';
import type { SumOf } from '../unit-sums.ts';
import { DIMENSIONS, measuresOf, type Scope } from './scope.ts';
import { TEAM, withTeams } from './teams.ts';

/** Returns the sums of measures as columns of a group. */
export const sumsOf = (scope: Scope, sum: SumOf = 'sum', measures: readonly string[] = measuresOf(scope)) =>
  measures.map((name) => `coalesce(${sum}(${name}), 0) as ${name}`).join(', ');

/** The measures of a row as members of a JSON object: as text, since a JSON number is not exact. */
export const textsOf = (scope: Scope) =>
  measuresOf(scope)
    .map((name) => `'${name}', ${name}::text`)
    .join(', ');

/** Returns whether any sum of a group is not zero. */
export const anySum = (scope: Scope, sum: SumOf = 'sum') =>
  measuresOf(scope)
    .map((name) => `${sum}(${name}) <> 0`)
    .join(' or ');

/** Identifies users: a user id is a name within a merchant. */
export const userOf = ({ merchantIds }: Scope) => (merchantIds?.length === 1 ? 'user_id' : 'merchant_id, user_id');

/** Returns a dimension as answered: '' in the rollups is an event without it. */
export const known = (column: string) => `coalesce(nullif(${column}, ''), 'unknown')`;
/** The providers that the rows of a group came from. */
export const PROVIDERS = `array_agg(distinct ${known('provider')}) as providers`;

export const isByModel = (groupings: readonly Grouping[]) => groupings.length === 1 && groupings[0] === 'model';

/** The columns that groupings are computed from. The providers of a model are listed beside its sums. */
export function columnsOf(groupings: readonly Grouping[]): string {
  const columns = groupings.flatMap((by) => (by === 'team' ? ['merchant_id', 'user_id', 'api_key'] : [DIMENSIONS[by]]));
  return [...new Set([...columns, ...(isByModel(groupings) ? ['provider'] : [])])].join(', ');
}

export const columnOf = (by: Grouping): string => (by === 'team' ? 'team' : DIMENSIONS[by]);

/**
 * The rows of a part in the form needed for grouping: with their team if requested, or summed by model and provider if
 * providers are listed, without those that sum to zero. `time`: the column of the period.
 */
export function grouped(
  groupings: readonly Grouping[],
  part: string,
  { sums, some, time }: { sums: string; some: string; time?: string },
): string {
  if (isByModel(groupings) && !time)
    return `(select model, provider, ${sums} from (${part}) as part group by model, provider having ${some}) as part`;
  if (!groupings.includes('team')) return `(${part}) as part`;
  const columns = [columnsOf(groupings), ...(time ? [time] : [])].join(', ');
  // Looked up once per key and user, not once per row.
  return `(
    select groups.*, ${TEAM} as team
    from (select ${columns}, ${sums} from (${part}) as part group by ${columns}) as ${withTeams('groups')}
  ) as part`;
}
