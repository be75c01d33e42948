import { setImmediate } from 'node:timers/promises';
import { TallyError } from '@tally/contracts';
import { type FairQueue, type Log, RequestAborted } from '@tally/service';
import type { Format } from './formats.ts';
import { gzipped } from './gzip.ts';
import { openSpool, type Spool } from './spool.ts';
import type { Row, Table } from './table.ts';

export type DownloadOptions = {
  /** The queue for writing exports: each holds a connection until it is written. */
  queue: FairQueue;
  /** Exports written or read concurrently; one caller may have a quarter of them. */
  atOnce: number;
  /** Bytes on disk for all of them. */
  maxBytes: number;
  /** How long a reader may stall. */
  stallMs: number;
  log: Log;
};

export type Downloads = {
  /**
   * Writes a table as a file, as fast as Postgres delivers it, and returns it for reading at any pace. Throws errors
   * that occur before the first row; UNAVAILABLE if too many exports are active or the disk space is used up;
   * RATE_LIMITED if this caller has too many. Later, the stream fails on an error, or when its reader stalls: the edge
   * then breaks the connection, so that a partial file never looks complete.
   */
  open(callerId: string, table: Table, format: Format, options: { gzip: boolean }): Promise<ReadableStream<Uint8Array>>;
};

const RETRY_AFTER_SECONDS = 5;
const SHARES = 4;

/** Exports hold a connection and a snapshot while they are written to a file, whatever the pace of their readers. */
export function createDownloads({ queue, atOnce, maxBytes, stallMs, log }: DownloadOptions): Downloads {
  /** Reserved before the file is opened, so that concurrent exports never exceed the limits together. */
  const places = new Set<{ callerId: string; spool?: Spool }>();

  const bytesOnDisk = () => [...places].reduce((sum, { spool }) => sum + (spool?.bytes ?? 0), 0);

  function assertRoom(callerId: string): void {
    const own = [...places].filter((place) => place.callerId === callerId).length;
    const share = Math.max(1, Math.floor(atOnce / SHARES));
    // A reader that takes a little now and then keeps its slot for hours.
    if (own >= share && places.size < atOnce)
      throw new TallyError('RATE_LIMITED', `${own} exports of this key are active, the most allowed.`, {
        details: { atOnce: share, retryAfter: RETRY_AFTER_SECONDS },
      });
    if (places.size < atOnce && bytesOnDisk() < maxBytes) return;
    const most =
      places.size < atOnce ? `${maxBytes} bytes of exports wait for their readers` : `${atOnce} exports are under way`;
    throw new TallyError('UNAVAILABLE', `${most}, the most allowed. Try again later.`, {
      details: { retryAfter: RETRY_AFTER_SECONDS },
    });
  }

  return {
    async open(callerId, table, format, { gzip }) {
      assertRoom(callerId);
      const place: { callerId: string; spool?: Spool } = { callerId };
      places.add(place);
      const spool = await openSpool().catch((error: unknown) => {
        places.delete(place);
        throw error;
      });
      place.spool = spool;
      let ended = false;

      async function write(begun: () => void): Promise<void> {
        const rows = table.rows[Symbol.asyncIterator]();
        try {
          const first = await rows.next();
          begun();
          const file = format.write({ ...table, rows: resumed(first, rows) });
          for await (const chunk of gzip ? gzipped(file) : file) {
            if (ended) return;
            await spool.append(chunk);
            if (bytesOnDisk() > maxBytes)
              throw new TallyError('UNAVAILABLE', `Exports have more than ${maxBytes} bytes on disk.`);
          }
        } finally {
          await rows.return?.();
        }
      }

      let written: Promise<void> | undefined;
      const end = async () => {
        if (ended) return;
        ended = true;
        // The writer must have left the file before it is closed.
        await written;
        places.delete(place);
        await spool.close();
      };
      await new Promise<void>((resolve, reject) => {
        written = queue(callerId, () => write(resolve)).then(
          () => {
            spool.finish();
            resolve();
          },
          (error: unknown) => {
            spool.finish(error);
            reject(error);
          },
        );
      }).catch(async (error: unknown) => {
        await end();
        throw error;
      });

      let stalled: NodeJS.Timeout | undefined;
      const fail = async (controller: ReadableStreamDefaultController, error: unknown) => {
        log.warn({ err: error }, 'export aborted');
        // Node sends what was just written at the next tick: the last line must go out before the connection ends.
        await setImmediate();
        controller.error(error);
        await end();
      };
      const expectReader = (controller: ReadableStreamDefaultController) => {
        const error = new RequestAborted(`The reader took nothing for ${stallMs} ms.`);
        stalled = setTimeout(() => void fail(controller, error), stallMs);
      };

      return new ReadableStream<Uint8Array>(
        {
          start: expectReader,
          async pull(controller) {
            clearTimeout(stalled);
            try {
              const chunk = await spool.read();
              if (ended) return;
              if (!chunk) {
                controller.close();
                await end();
                return;
              }
              controller.enqueue(chunk);
              expectReader(controller);
            } catch (error) {
              await fail(controller, error);
            }
          },
          async cancel() {
            clearTimeout(stalled);
            await end();
          },
        },
        { highWaterMark: 0 },
      );
    },
  };
}

async function* resumed(first: IteratorResult<Row[]>, rows: AsyncIterator<Row[]>): AsyncGenerator<Row[]> {
  for (let next = first; !next.done; next = await rows.next()) yield next.value;
}
