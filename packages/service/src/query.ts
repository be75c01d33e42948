import { TallyError } from '@tally/contracts';

/**
 * The query parameters of a URL, for a schema to check: `lists` may be repeated and come as arrays. INVALID_INPUT where
 * another one is repeated: which of its values is meant, nobody can know. Any name is kept, also one that objects have.
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
