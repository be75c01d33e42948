import { TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';

export type EraseUser = (
  call: { merchantId: string; userId: string },
  caller: { id: string; merchantId: string | null },
) => Promise<{ pseudonym: string; complete: boolean; events: number }>;

/** A call works this long, then answers; the next call continues. */
const MAX_MS = 10_000;

/**
 * Replaces a user of a merchant by a pseudonym, in stored data and future events. `complete: false` if time is up, or
 * events of the merchant still wait in Redis: call again. Throws CONFLICT if an active budget or meter names the user.
 */
export function createEraseUser({
  db,
  flushSoon,
  isOver = (started) => performance.now() - started > MAX_MS,
}: {
  db: Pick<Db, 'erasures'>;
  /** Flushes pending events of these merchants, for a bounded time; returns true if none are left. Never throws. */
  flushSoon(merchantIds: readonly string[]): Promise<boolean>;
  isOver?: (started: number) => boolean;
}): EraseUser {
  return async ({ merchantId, userId }, caller) => {
    const started = performance.now();
    const blockers = await db.erasures.blockers(merchantId, userId);
    if (blockers.length > 0)
      throw new TallyError(
        'CONFLICT',
        'Active budgets or meters name this user. Remove those in `blockers` (at most 10 at once) first.',
        {
          details: { blockers },
        },
      );
    const everywhere = caller.merchantId === null;
    const erasure = await db.erasures.begin({ merchantId, userId, everywhere }, caller.id);
    // From now on Postgres stores events of the user under the pseudonym, so flushed events need no renaming.
    const isFlushed = await flushSoon([merchantId]);
    const { complete, events } = await db.erasures.run(erasure, () => isOver(started));
    return { pseudonym: erasure.pseudonym, complete: complete && isFlushed, events };
  };
}
