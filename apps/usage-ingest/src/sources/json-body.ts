import { TallyError } from '@tally/contracts';
import { NUMBER_MARK, parseExactly } from '@tally/service';

/** The limit of events per request for a product that documents none. */
export const MAX_EVENTS = 10_000;

/** Parses a body as JSON with marked numbers. Throws INVALID_JSON. */
export function jsonOf(body: Buffer): unknown {
  try {
    return parseExactly(body.toString(), NUMBER_MARK);
  } catch (cause) {
    throw new TallyError('INVALID_JSON', 'The body is not valid JSON.', { cause });
  }
}

/** Returns a list of events. Throws INVALID_INPUT if it is none, BATCH_TOO_LARGE if it has more than `max`. */
export function eventsOf(value: unknown, name: string, max = MAX_EVENTS): unknown[] {
  if (!Array.isArray(value)) throw new TallyError('INVALID_INPUT', `Expected a list of events in ${name}.`);
  if (value.length > max)
    throw new TallyError('BATCH_TOO_LARGE', `At most ${max} events at once; there are ${value.length}.`);
  return value;
}
