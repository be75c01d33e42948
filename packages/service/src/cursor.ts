import { createHash } from 'node:crypto';
import { TallyError } from '@tally/contracts';
import type { z } from 'zod';

/**
 * Encodes the position of a page's last row, for the next page of the same query (without limit and cursor). A query
 * whose input another procedure may have, too, names its procedure.
 */
export const encodeCursor = (place: readonly string[], question: unknown): string =>
  Buffer.from(JSON.stringify([...place, fingerprint(question)])).toString('base64url');

/**
 * Decodes the position in a cursor. Throws INVALID_CURSOR if it has another shape or belongs to another query: callers
 * can forge cursors.
 */
export function decodeCursor<Place extends z.ZodType>(
  cursor: string,
  question: unknown,
  shape: Place,
): z.output<Place> {
  const place = parsed(Buffer.from(cursor, 'base64url').toString('utf8'));
  const known =
    place.pop() === fingerprint(question) && !UNSTORABLE.test(place.join()) ? shape.safeParse(place) : undefined;
  if (known?.success) return known.data;
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this query.');
}

/** NUL and lone surrogates. No stored position has them, and Postgres refuses them. */
const UNSTORABLE = /[\0\p{Cs}]/u;

function parsed(text: string): unknown[] {
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

const fingerprint = (question: unknown): string =>
  createHash('sha256').update(JSON.stringify(question)).digest('base64url').slice(0, 16);
