import { setTimeout as wait } from 'node:timers/promises';
import type { Db } from '@tally/db';
import type { Log } from '@tally/service';

/** Returns the names of properties that meters take amounts from. Never throws: the names may be some seconds old. */
export type MeteredFields = {
  (): Promise<ReadonlySet<string>>;
  /** Reports that this process has changed the registry. */
  changed(): void;
};

const KEPT_MS = 2_000;
/** Events wait no longer than this for a Postgres that does not answer. */
const MAX_WAIT_MS = 500;

/** Reads the registry of meters at most every two seconds; while Postgres is unavailable, the last names stay. */
export function createMeteredFields({
  meters,
  log,
  now,
}: {
  meters: Pick<Db['meters'], 'list'>;
  log: Log;
  now: () => number;
}): MeteredFields {
  let known: ReadonlySet<string> = new Set();
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    try {
      const rows = await meters.list();
      known = new Set(rows.flatMap(({ valueProperty }) => (valueProperty === null ? [] : [valueProperty])));
    } catch (err) {
      log.warn({ err }, 'meters could not be read; sources go on with those known');
    }
    readAt = now();
    reading = undefined;
  }

  const fields = async () => {
    if (Math.abs(now() - readAt) > KEPT_MS) reading ??= read();
    if (reading) await Promise.race([reading, wait(MAX_WAIT_MS, undefined, { ref: false })]);
    return known;
  };
  return Object.assign(fields, {
    changed() {
      readAt = Number.NEGATIVE_INFINITY;
    },
  });
}
