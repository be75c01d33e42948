import { type DeadLetter, TallyError } from '@tally/contracts';
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
  /** Counts what Postgres takes now; what it still refuses stays. */
  retry(options: {
    merchantId?: string | undefined;
    ids?: string[] | undefined;
  }): Promise<{ counted: number; stillRefused: DeadLetter[] }>;
};

const MAX_RETRIED = 1000;

/** Acknowledged entries that Postgres refused: visible, and counted once it takes them. */
export function createDeadLetters(db: Pick<Db, 'deadLetters' | 'journal'>): DeadLetters {
  return {
    async list({ cursor, ...options }) {
      const letters = await db.deadLetters.list({ ...options, after: cursor });
      const full = letters.length === options.limit;
      return { rows: letters.map(({ line: _, ...letter }) => letter), nextCursor: full ? letters.at(-1)!.id : null };
    },
    async retry({ merchantId, ids }) {
      const letters = await db.deadLetters.list({ merchantId, ids, limit: MAX_RETRIED, includeResolved: false });
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
          stillRefused.push({ ...letter, attempts: letter.attempts + 1 });
        }
      }
      return { counted: letters.length - stillRefused.length, stillRefused };
    },
  };
}
