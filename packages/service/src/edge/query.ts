import { TallyError } from '@tally/contracts';

/**
 * Returns the query parameters of a URL for a schema to check. Those of `lists` may repeat and become arrays. Throws
 * INVALID_INPUT for any other repeated parameter, which is ambiguous. Keeps any name, also one that every object has.
 */
export function queryOf(url: string, lists: readonly string[]): Record<string, string | string[]> {
  const given = new Map<string, string[]>();
  for (const [name, value] of new URL(url).searchParams) {
    const values = given.get(name);
    if (values) values.push(value);
    else given.set(name, [value]);
  }
  return Object.fromEntries(
    [...given].map(([name, values]) => {
      if (lists.includes(name)) return [name, values];
      if (values.length > 1)
        throw new TallyError('INVALID_INPUT', `${name}: Expected one value, it is given ${values.length} times.`);
      return [name, values[0]!];
    }),
  );
}
