import { addDays, DAY_MS, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';

/** Closes the days of the journal that are past the retention and quiet for as long; returns them. */
export type CloseDays = () => Promise<Day[]>;

export function createCloseDays(options: {
  db: Pick<Db, 'partitions'>;
  retentionDays: number;
  now: () => number;
}): CloseDays {
  const { db, retentionDays, now } = options;
  return async () => {
    const closed: Day[] = [];
    const firstKept = addDays(dayOf(now()), -retentionDays);
    for (const day of await db.partitions.closable(firstKept, new Date(now() - retentionDays * DAY_MS))) {
      if (await db.partitions.close(day)) closed.push(day);
    }
    return closed;
  };
}
