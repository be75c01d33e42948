import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { Day } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { sql } from './run-sql.ts';

const PAGE_ROWS = 5_000;

export type Archive = {
  /**
   * Writes all events of a day to `<folder>/<date>.ndjson.gz`, one per line, in the form that `usage.record` accepts;
   * returns their number. Replaces an older file once the new one is complete. Rejects if it cannot write.
   */
  day(day: Day, folder: string): Promise<number>;
};

/** Archives events outside of Postgres. Reads pages in one transaction, so memory stays bounded. */
export function createArchive(dataSource: DataSource): Archive {
  return {
    async day(day, folder) {
      await mkdir(folder, { recursive: true });
      const file = join(folder, `${day}.ndjson.gz`);
      const draft = `${file}.${randomUUID()}.part`;
      const runner = dataSource.createQueryRunner();
      let events = 0;
      async function* lines() {
        await runner.query(`declare page no scroll cursor for ${sql('archive-day')}`, [day]);
        for (;;) {
          const rows: { line: string }[] = await runner.query(`fetch ${PAGE_ROWS} from page`);
          if (rows.length > 0) yield `${rows.map(({ line }) => line).join('\n')}\n`;
          events += rows.length;
          if (rows.length < PAGE_ROWS) return;
        }
      }
      try {
        await runner.startTransaction();
        await pipeline(Readable.from(lines()), createGzip(), createWriteStream(draft, { mode: 0o600 }));
        await rename(draft, file);
        return events;
      } finally {
        await runner.rollbackTransaction().catch(() => {});
        await runner.release();
        await rm(draft, { force: true });
      }
    },
  };
}
