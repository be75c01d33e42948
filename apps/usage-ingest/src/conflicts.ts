import type { Day, IdConflict } from '@tally/contracts';
import type { Db } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';
import type { Scales } from './meters/registry.ts';
import { presentLine, typesOf } from './recent.ts';

export type ConflictsQuestion = {
  startDate: Day;
  endDate: Day;
  merchantIds: readonly string[] | undefined;
  limit: number;
  cursor?: string | undefined;
};

/**
 * Returns events that were not counted because another event has their id, in order of day. `complete` is false if
 * pending events, which may be conflicts, were not flushed.
 */
export type Conflicts = (
  question: ConflictsQuestion,
) => Promise<{ rows: IdConflict[]; nextCursor: string | null; complete: boolean }>;

const Place = z.tuple([z.iso.date(), z.string().regex(/^\d{1,18}$/)]);

export function createConflicts(options: {
  db: Pick<Db, 'conflicts'>;
  scales: Scales;
  /** Flushes pending events, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds?: readonly string[]): Promise<boolean>;
}): Conflicts {
  return async ({ limit, cursor, ...question }) => {
    const { startDate, endDate, merchantIds } = question;
    // The flush finds conflicts among pending events. While Redis is unavailable, known conflicts are returned.
    const complete = cursor !== undefined || (await options.flushSoon(merchantIds));
    const of = { startDate, endDate, merchantIds: merchantIds ?? null };
    const [date, id] = cursor === undefined ? [] : decodeCursor(cursor, of, Place);
    const after = date === undefined || id === undefined ? undefined : { date, id };
    const found = await options.db.conflicts.list({ ...question, after, limit });
    const scaleOf = await options.scales(typesOf(found.map(({ line }) => line)));
    const last = found.length === limit ? found.at(-1) : undefined;
    return {
      rows: found.map((each) => ({
        merchantId: each.merchantId,
        id: each.entryId,
        date: each.date,
        counted: { digest: each.countedDigest, time: each.countedTime },
        notCounted: { digest: each.digest, time: each.time, entry: presentLine(each.line, true, scaleOf) },
        source: each.source,
        recordedAt: each.recordedAt,
      })),
      nextCursor: last ? encodeCursor([last.date, last.id], of) : null,
      complete,
    };
  };
}
