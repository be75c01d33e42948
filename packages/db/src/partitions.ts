import { addDays, type Day } from '@tally/contracts';
import type { Executor } from './run-sql.ts';

export type Partitions = {
  /** Makes sure, inside a transaction, that the journal has a partition for each day; any number of processes may. */
  ensure(transaction: Executor, days: readonly Day[]): Promise<void>;
};

const LOCK = 7422;

/** The journal's partitions, one per day, `usage_events_20261122`. */
export function createPartitions(): Partitions {
  const known = new Set<Day>();

  return {
    async ensure(transaction, days) {
      for (const day of [...new Set(days)].sort()) {
        // A partition made here may still be rolled back, so only one that was found counts as known.
        if (!known.has(day) && (await exists(transaction, day, () => create(transaction, day)))) known.add(day);
      }
    },
  };
}

async function exists(transaction: Executor, day: Day, otherwise: () => Promise<void>): Promise<boolean> {
  const look = async () => {
    const [found] = (await transaction.query('select to_regclass($1) as name', [partitionOf(day)])) as {
      name: unknown;
    }[];
    return found!.name !== null;
  };
  if (await look()) return true;
  await transaction.query('select pg_advisory_xact_lock($1)', [LOCK]);
  if (await look()) return true;
  await otherwise();
  return false;
}

/** ATTACH does not block writers, as CREATE … PARTITION OF does. */
async function create(transaction: Executor, day: Day): Promise<void> {
  const name = partitionOf(day);
  await transaction.query(`create table ${name} (like usage_events including defaults including constraints)`);
  await transaction.query(
    `alter table usage_events attach partition ${name} for values from ('${day}') to ('${addDays(day, 1)}')`,
  );
}

/** Days are checked before they come here, so the name is digits only. */
function partitionOf(day: Day): string {
  return `usage_events_${day.replaceAll('-', '')}`;
}
