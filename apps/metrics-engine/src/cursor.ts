import { TallyError } from '@tally/contracts';
import type { z } from 'zod';

/** A place in a list, as callers carry it to the next page. */
export const encodeCursor = (place: readonly string[]): string =>
  Buffer.from(JSON.stringify(place)).toString('base64url');

/** The place in a cursor; INVALID_CURSOR for what is none of this shape: callers can make up any. */
export function decodeCursor<S extends z.ZodType>(cursor: string, shape: S): z.output<S> {
  const place = shape.safeParse(parsed(Buffer.from(cursor, 'base64url').toString('utf8')));
  if (place.success) return place.data;
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
