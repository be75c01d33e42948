import { setImmediate } from 'node:timers/promises';
import { TallyError } from '@tally/contracts';
import type { Log } from '@tally/service';
import type { Format } from './formats.ts';
import type { Row, Table } from './table.ts';

export type DownloadOptions = {
  /** Downloads that may hold a connection at once: fewer than the pool has. */
  atOnce: number;
  /** How long a reader may take nothing. */
  stallMs: number;
  log: Log;
};

export type Downloads = {
  /**
   * Writes a table as a file, at the reader's pace. Throws errors that occur before the first row; UNAVAILABLE where too many
   * downloads are under way. After that the stream fails on an error, or when its reader stalls: the edge then ends the
   * connection, so that a part of a file never looks whole.
   */
  open(table: Table, format: Format): Promise<ReadableStream<Uint8Array>>;
};

const RETRY_AFTER_SECONDS = 5;

/** Holds at most `atOnce` connections and snapshots for downloads, each no longer than its reader makes progress. */
export function createDownloads({ atOnce, stallMs, log }: DownloadOptions): Downloads {
  let underWay = 0;

  return {
    async open(table, format) {
      if (underWay >= atOnce) {
        throw new TallyError('UNAVAILABLE', `${underWay} exports are under way, which is the most at once.`, {
          details: { retryAfter: RETRY_AFTER_SECONDS },
        });
      }
      underWay++;
      const rows = table.rows[Symbol.asyncIterator]();
      const first = await rows.next().catch(async (error: unknown) => {
        underWay--;
        throw error;
      });
      const file = format.write({ ...table, rows: resumed(first, rows) })[Symbol.asyncIterator]();

      let stalled: NodeJS.Timeout | undefined;
      let ended = false;
      const end = async () => {
        clearTimeout(stalled);
        if (ended) return;
        ended = true;
        // A generator that was never started does not run its `finally`, so the rows are left by themselves.
        await Promise.allSettled([file.return?.(), rows.return?.()]);
        underWay--;
      };
      const fail = async (controller: ReadableStreamDefaultController, error: unknown) => {
        log.warn({ err: error }, 'export aborted');
        // Node sends what was just written at the next tick: the last line must go out before the connection ends.
        await setImmediate();
        controller.error(new Error('The export was aborted.'));
        await end();
      };

      const expectReader = (controller: ReadableStreamDefaultController) => {
        const error = new Error(`The reader took nothing for ${stallMs} ms.`);
        stalled = setTimeout(() => void fail(controller, error), stallMs);
      };

      return new ReadableStream<Uint8Array>(
        {
          start: expectReader,
          async pull(controller) {
            clearTimeout(stalled);
            try {
              const next = await file.next();
              if (ended) return;
              if (next.done) {
                controller.close();
                await end();
                return;
              }
              controller.enqueue(next.value);
              expectReader(controller);
            } catch (error) {
              await fail(controller, error);
            }
          },
          cancel: end,
        },
        { highWaterMark: 0 },
      );
    },
  };
}

async function* resumed(first: IteratorResult<Row[]>, rows: AsyncIterator<Row[]>): AsyncGenerator<Row[]> {
  for (let next = first; !next.done; next = await rows.next()) yield next.value;
}
