import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { openFiles } from '../files.ts';
import { LOCKS, tryLock } from '../locks.ts';
import { type Executor, sql } from '../run-sql.ts';

const PAGE_ROWS = 5_000;
const OWNER_ONLY = 0o600;

export type Archive = {
  /**
   * Writes all events of a day to `<date>.ndjson.gz` at a location, one per line, in the form that `usage.record`
   * accepts; returns their number. Replaces an older file once the new one is complete. Rejects if it cannot write.
   * Returns undefined, and writes nothing, if the day is closed, or while another process archives.
   */
  day(day: Day, location: string): Promise<number | undefined>;
};

/** Archives events outside of Postgres. Reads pages in one transaction, so memory stays bounded. */
export function createArchive(dataSource: DataSource): Archive {
  return {
    async day(day, location) {
      const files = openFiles(location, OWNER_ONLY);
      const runner = dataSource.createQueryRunner();
      let events = 0;
      async function* lines() {
        for (;;) {
          const rows: { line: string }[] = await runner.query(`fetch ${PAGE_ROWS} from page`);
          if (rows.length > 0) yield `${rows.map(({ line }) => line).join('\n')}\n`;
          events += rows.length;
          if (rows.length < PAGE_ROWS) return;
        }
      }
      try {
        await runner.startTransaction();
        // Of two files of a day, the one that was read last must be the one that stays.
        if (!(await tryLock(runner as Executor, LOCKS.archive))) return undefined;
        // Read first: on Citus, a statement on all nodes cannot look into a table of the coordinator for each event.
        const [{ decimals }] = await runner.query(sql('meter-decimals'));
        await runner.query(`declare page no scroll cursor for ${sql('archive-day')}`, [day, decimals]);
        // The cursor keeps the events of an open day. A closed one has none: its archive would be replaced by nothing.
        if ((await runner.query(sql('closed-days'), [[day]])).length > 0) return undefined;
        await files.write(`${day}.ndjson.gz`, lines());
        return events;
      } finally {
        await runner.rollbackTransaction().catch(() => {});
        await runner.release();
      }
    },
  };
}
