import { type DeadLetter, isTallyError, messageOf, TallyError } from '@tally/contracts';
import { type Db, isRefusal, originOf } from '@tally/db';

export type DeadLetters = {
  list(options: {
    merchantId?: string | undefined;
    includeResolved: boolean;
    limit: number;
    cursor?: string | undefined;
  }): Promise<{
    rows: DeadLetter[];
    nextCursor: string | null;
  }>;
  /** Counts what Postgres accepts now; the rest stays. `left` were not tried because of `limit`. */
  retry(options: {
    merchantId?: string | undefined;
    ids?: string[] | undefined;
    limit: number;
  }): Promise<{ counted: number; stillRefused: DeadLetter[]; left: number }>;
};

/** Dead letters: acknowledged events that Postgres rejected. Lists them, and counts them once Postgres accepts them. */
export function createDeadLetters(db: Pick<Db, 'deadLetters' | 'journal'>): DeadLetters {
  return {
    async list({ cursor, ...options }) {
      const letters = await db.deadLetters.list({ ...options, after: cursor });
      const full = letters.length === options.limit;
      return { rows: letters.map(({ line: _, ...letter }) => letter), nextCursor: full ? letters.at(-1)!.id : null };
    },
    async retry({ merchantId, ids, limit }) {
      const asked = await db.deadLetters.count({ merchantId, ids });
      const letters = await db.deadLetters.list({ merchantId, ids, limit, includeResolved: false });
      const stillRefused: DeadLetter[] = [];
      for (const { line, ...letter } of letters) {
        try {
          const { skipped } = await db.journal.append({
            source: 'stream',
            lines: [{ ...line, origin: originOf(letter.id, line) }],
          });
          if (skipped.length > 0) throw new TallyError('UNAVAILABLE', 'The merchant is being corrected; retry again.');
          await db.deadLetters.resolve(letter.id);
        } catch (error) {
          if (!isRefusal(error)) throw error;
          const reason = reasonOf(error);
          stillRefused.push({ ...letter, ...reason, attempts: await db.deadLetters.refused(letter.id, reason) });
        }
      }
      return {
        counted: letters.length - stillRefused.length,
        stillRefused,
        left: Math.max(0, asked - letters.length),
      };
    },
  };
}

/** Returns why Postgres rejected an event, as its dead letter records it. */
export const reasonOf = (error: unknown): { code: string; message: string } => ({
  code: isTallyError(error) ? error.code : 'REFUSED',
  message: messageOf(error),
});
