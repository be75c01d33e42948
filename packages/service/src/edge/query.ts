import { TallyError } from '@tally/contracts';
import { groupBy } from '../group-by.ts';

/**
 * Returns the query parameters of a URL for a schema to check. Those of `lists` may repeat and become arrays. Throws
 * INVALID_INPUT for any other repeated parameter, which is ambiguous. Keeps any name, also one that every object has.
 */
export function queryOf(url: string, lists: readonly string[]): Record<string, string | string[]> {
  const given = groupBy(new URL(url).searchParams, ([name]) => name);
  return Object.fromEntries(
    [...given].map(([name, parameters]) => {
      const values = parameters.map(([, value]) => value);
      if (lists.includes(name)) return [name, values];
      if (values.length > 1)
        throw new TallyError('INVALID_INPUT', `${name}: Expected one value, it is given ${values.length} times.`);
      return [name, values[0]!];
    }),
  );
}
