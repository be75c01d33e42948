import { createHash } from 'node:crypto';
import { TallyError } from '@tally/contracts';
import type { Position } from '@tally/db';

/** A cursor carries the question it belongs to, so that it cannot continue another one. */
export function encodeCursor(position: Position, question: unknown): string {
  return Buffer.from(JSON.stringify([position.value, position.key, fingerprint(question)])).toString('base64url');
}

/** INVALID_CURSOR for what is no cursor of this question. */
export function decodeCursor(cursor: string, question: unknown, isValue: (value: string) => boolean): Position {
  try {
    const [value, key, of] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')) as unknown[];
    if (typeof value === 'string' && isValue(value) && typeof key === 'string' && of === fingerprint(question))
      return { value, key };
  } catch {
    // Falls through to the one error for every unreadable cursor.
  }
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
}

const fingerprint = (question: unknown) =>
  createHash('sha256').update(JSON.stringify(question)).digest('base64url').slice(0, 16);
