import { TallyError } from '@tally/contracts';
import { NUMBER_MARK, parseExactly } from './exact-json.ts';

/** Events of one request of a product that states no limit of its own. */
export const MAX_EVENTS = 10_000;

/** Reads a body as JSON, its numbers marked; INVALID_JSON where it is none. */
export function jsonOf(body: Buffer): unknown {
  try {
    return parseExactly(body.toString(), NUMBER_MARK);
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not readable as JSON.', { cause });
  }
}

/** Returns a list of events; INVALID_INPUT where it is none, BATCH_TOO_LARGE where it has more than `max`. */
export function eventsOf(value: unknown, name: string, max = MAX_EVENTS): unknown[] {
  if (!Array.isArray(value)) throw new TallyError('INVALID_INPUT', `Expected a list of events in ${name}.`);
  if (value.length > max)
    throw new TallyError('BATCH_TOO_LARGE', `At most ${max} events at once; there are ${value.length}.`);
  return value;
}
