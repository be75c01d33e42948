import { addDays, DAY_MS, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';

/**
 * Closes the days of the journal that are past the retention and had no writes for as long; returns them. A day with a
 * dead letter, or with events that another process is deriving, waits for the next call.
 */
export type CloseDays = () => Promise<Day[]>;

const PRUNED_AT_ONCE = 10_000;
/** How long changes are logged: `usage.changes` starts over for an older cursor. */
const CHANGES_KEPT_MS = 7 * DAY_MS;

export function createCloseDays(options: {
  db: Pick<Db, 'archive' | 'partitions' | 'derivations' | 'changeLog'>;
  derive(): Promise<void>;
  retentionDays: number;
  /** Archives the events of a day before they are dropped; if that fails, the day stays open. */
  archiveFolder: string | undefined;
  onArchiveError(day: Day, error: unknown): void;
  /** Returns the time that the clocks of this process and of Postgres have both reached: a wrong one drops no events. */
  agreedNow: () => Promise<number>;
}): CloseDays {
  const { db, derive, retentionDays, archiveFolder, onArchiveError, agreedNow } = options;

  /** Resolves with true if the day was closed. */
  async function close(day: Day): Promise<boolean> {
    if (archiveFolder === undefined) return db.partitions.close(day);
    try {
      const archived = await db.archive.day(day, archiveFolder);
      return archived !== undefined && (await db.partitions.close(day, archived));
    } catch (error) {
      onArchiveError(day, error);
      return false;
    }
  }

  return async () => {
    const closed: Day[] = [];
    await derive();
    const now = await agreedNow();
    const firstKept = addDays(dayOf(now), -retentionDays);
    for (const day of await db.partitions.closable(firstKept, new Date(now - retentionDays * DAY_MS))) {
      if (await close(day)) closed.push(day);
    }
    while ((await db.derivations.prune(PRUNED_AT_ONCE)) === PRUNED_AT_ONCE);
    await db.changeLog.prune(new Date(now - CHANGES_KEPT_MS));
    return closed;
  };
}
