import { parseTime, TallyError } from '@tally/contracts';

// Reads parameters of a query. Each function throws INVALID_INPUT, with the name of the parameter as `field`.

const refused = (name: string, expected: string) =>
  new TallyError('INVALID_INPUT', `${name}: expected ${expected}.`, { details: { field: name } });

/** Returns a time as milliseconds; undefined if it is absent. */
export function momentIn(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null) return undefined;
  const ms = parseTime(text);
  if (ms === undefined) throw refused(name, 'a time, such as 2026-11-22T10:00:00Z');
  return ms;
}

/** Returns a whole number from 1 to `most`; `usual` if it is absent. */
export function wholeIn(query: URLSearchParams, name: string, usual: number, most: number): number {
  const text = query.get(name);
  if (text === null) return usual;
  const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > most) throw refused(name, `a whole number from 1 to ${most}`);
  return value;
}

/** Returns one of `values`; undefined if it is absent. */
export function oneOf<Value extends string>(
  query: URLSearchParams,
  name: string,
  values: readonly Value[],
): Value | undefined {
  const given = query.get(name);
  const found = values.find((value) => value === given);
  if (given !== null && !found) throw refused(name, `one of ${values.join(', ')}`);
  return found;
}
