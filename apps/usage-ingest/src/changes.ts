import type { Day } from '@tally/contracts';
import type { Change, ChangePlace, Db } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';

export type ChangesQuestion = {
  since?: string | undefined;
  limit: number;
  /** Absent or empty: all merchants. */
  merchantIds?: readonly string[] | undefined;
};

/** Returns merchants' days whose numbers changed after a cursor; without a cursor, or with a pruned one, all days. */
export type Changes = (question: ChangesQuestion) => Promise<{ rows: Change[]; nextCursor: string; hasMore: boolean }>;

const Num = z.string().regex(/^\d{1,18}$/);
const Position = z
  .string()
  .regex(/^\d{1,9}$/)
  .transform(Number);
const Place = z.union([
  z.tuple([z.literal('all'), Num, Num, Position, z.string(), z.iso.date()]).transform(
    ([kind, xact, id, position, merchantId, date]): ChangePlace => ({
      ...{ kind, xact, id, position, merchantId },
      date: date as Day,
    }),
  ),
  z
    .tuple([z.literal('log'), Num, Num, Position])
    .transform(([kind, xact, id, position]): ChangePlace => ({ kind, xact, id, position })),
]);

export function createChanges({ changeLog }: Pick<Db, 'changeLog'>): Changes {
  return async ({ since, limit, merchantIds }) => {
    const some = merchantIds?.length ? merchantIds : undefined;
    const of = { changes: some ?? null };
    const place = since === undefined ? undefined : decodeCursor(since, of, Place);
    const { rows, next, hasMore } = await changeLog.after(place, { limit, merchantIds: some });
    return { rows, nextCursor: encodeCursor(Object.values(next).map(String), of), hasMore };
  };
}
