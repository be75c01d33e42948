import { randomUUID } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { TallyError } from '@tally/contracts';
import { type FairQueue, type Log, RequestAborted } from '@tally/service';
import type { Format } from './formats.ts';
import { gzipped } from './gzip.ts';
import { type Range, rangeOf } from './range.ts';
import { noRoom, openSpool, RETRY_AFTER_SECONDS, type Spool } from './spool.ts';
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
  /** How long a whole file stays for readers that come back. */
  keepMs: number;
  log: Log;
};

/** What a file answers: only its own caller may resume it, by the same URL. */
type Asked = { callerId: string; url: string; gzip: boolean };

/** A file, or the part of a file that was asked for. */
export type Download = { status: 200 | 206; headers: Record<string, string>; body: ReadableStream<Uint8Array> };

export type Downloads = {
  /**
   * Writes a table as a file, as fast as Postgres delivers it, and returns it for reading at any pace. Throws errors
   * that occur before the first bytes; UNAVAILABLE if too many exports are active or the disk space is used up;
   * RATE_LIMITED if this caller has too many. Later, the stream fails on an error, or when its reader stalls: the edge
   * then breaks the connection, so that a partial file never looks complete.
   */
  open(asked: Asked, table: Table, format: Format, headers: Record<string, string>): Promise<Download>;
  /**
   * Returns a part of a file that was opened before, once that is whole: the one that `ifRange` names by its ETag.
   * Returns undefined if there is no such file any more, so that it must be written again. Throws
   * RANGE_NOT_SATISFIABLE for a range beyond its end.
   */
  resume(asked: Asked, range: string | undefined, ifRange: string | undefined): Download | undefined;
};

/** An export on disk. */
type File = Asked & {
  etag: string;
  headers: Record<string, string>;
  spool: Spool;
  readers: number;
  /** Resolves once its writer has left it. */
  written: Promise<void>;
  /** True if nobody will read what is still to be written. */
  isAbandoned: boolean;
  /** Set while a whole file waits for a reader to come back. */
  forgotten?: NodeJS.Timeout;
};

const SHARES = 4;

/** Exports hold a connection and a snapshot while they are written to a file, whatever the pace of their readers. */
export function createDownloads({ queue, atOnce, maxBytes, stallMs, keepMs, log }: DownloadOptions): Downloads {
  /** The callers of exports being written or read. Reserved before the file is opened, so that the limits hold. */
  const places = new Set<{ callerId: string }>();
  /** All files on disk, the one that was read last at the end. */
  const files = new Map<string, File>();

  const bytesOnDisk = () => [...files.values()].reduce((sum, { spool }) => sum + spool.bytes, 0);

  function takePlace(callerId: string): () => void {
    const own = [...places].filter((place) => place.callerId === callerId).length;
    const share = Math.max(1, Math.floor(atOnce / SHARES));
    // A reader that takes a little now and then keeps its slot for hours.
    if (own >= share && places.size < atOnce)
      throw new TallyError('RATE_LIMITED', `${own} exports of this key are active, the most allowed.`, {
        details: { atOnce: share, retryAfter: RETRY_AFTER_SECONDS },
      });
    if (places.size >= atOnce) throw tooMuch(`${atOnce} exports are under way`);
    const place = { callerId };
    places.add(place);
    return () => void places.delete(place);
  }

  async function remove(file: File): Promise<void> {
    clearTimeout(file.forgotten);
    files.delete(file.etag);
    await file.spool.close();
  }

  const unread = () => [...files.values()].filter(({ forgotten }) => forgotten !== undefined);

  /** Removes the file that waits longest for a reader to come back. Returns false if none does. */
  async function removeOldest(): Promise<boolean> {
    const [oldest] = unread();
    if (oldest) await remove(oldest);
    return oldest !== undefined;
  }

  /** Appends to a file, in place of files that only wait for a reader to come back. */
  async function append({ spool }: File, chunk: Uint8Array): Promise<void> {
    for (;;) {
      try {
        await spool.append(chunk);
        break;
      } catch (error) {
        if (!(await removeOldest())) throw error;
      }
    }
    while (bytesOnDisk() > maxBytes)
      if (!(await removeOldest()))
        throw new TallyError('UNAVAILABLE', `Exports have more than ${maxBytes} bytes on disk.`);
  }

  async function write(file: File, table: Table, format: Format, begun: () => void): Promise<void> {
    const rows = table.rows[Symbol.asyncIterator]();
    try {
      const first = await rows.next();
      const bytes = format.write({ ...table, rows: resumed(first, rows) });
      for await (const chunk of file.gzip ? gzipped(bytes) : bytes) {
        if (file.isAbandoned) return;
        await append(file, chunk);
        begun();
      }
    } finally {
      await rows.return?.();
    }
  }

  async function leave(file: File): Promise<void> {
    if (--file.readers > 0) return;
    if (file.spool.isWhole) {
      files.delete(file.etag);
      files.set(file.etag, file);
      file.forgotten = setTimeout(() => void remove(file), keepMs).unref();
      if (unread().length > atOnce) await removeOldest();
      return;
    }
    file.isAbandoned = true;
    // The writer must have left the file before it is closed.
    await file.written;
    await remove(file);
  }

  /** Reads a file from one position to another, or to its end. */
  function streamOf(
    file: File,
    { from, to = Number.POSITIVE_INFINITY }: Partial<Range> & { from: number },
    free: () => void,
  ) {
    let at = from;
    let stalled: NodeJS.Timeout | undefined;
    let ended = false;
    const end = async () => {
      if (ended) return;
      ended = true;
      await leave(file);
      free();
    };
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
            const chunk = at < to ? await file.spool.read(at) : undefined;
            if (ended) return;
            if (!chunk) {
              controller.close();
              await end();
              return;
            }
            const part = chunk.subarray(0, to - at);
            at += part.byteLength;
            controller.enqueue(part);
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
  }

  return {
    async open(asked, table, format, headers) {
      while (bytesOnDisk() >= maxBytes)
        if (!(await removeOldest())) throw tooMuch(`${maxBytes} bytes of exports wait for their readers`);
      const free = takePlace(asked.callerId);
      const spool = await openSpool().catch((error: unknown) => {
        free();
        throw error;
      });
      const etag = `"${randomUUID()}"`;
      const own = { ...headers, etag, 'accept-ranges': 'bytes' };
      const file: File = {
        ...asked,
        etag,
        headers: own,
        spool,
        readers: 1,
        written: Promise.resolve(),
        isAbandoned: false,
      };
      files.set(etag, file);
      await new Promise<void>((resolve, reject) => {
        file.written = queue(asked.callerId, () => write(file, table, format, resolve)).then(
          () => {
            // What was left early is no whole file.
            spool.finish(file.isAbandoned ? new RequestAborted('The reader left.') : undefined);
            resolve();
          },
          (error: unknown) => {
            spool.finish(error);
            reject(error);
          },
        );
      }).catch(async (error: unknown) => {
        await leave(file);
        free();
        throw error;
      });
      return { status: 200, headers: own, body: streamOf(file, { from: 0 }, free) };
    },
    resume({ callerId, url, gzip }, range, ifRange) {
      const file = files.get(ifRange ?? '');
      const isIt = file?.callerId === callerId && file.url === url && file.gzip === gzip && file.spool.isWhole;
      if (!file || !isIt || range === undefined) return undefined;
      const size = file.spool.bytes;
      const part = rangeOf(range, size);
      if (!part) return undefined;
      const free = takePlace(callerId);
      clearTimeout(file.forgotten);
      delete file.forgotten;
      file.readers++;
      const headers = {
        ...file.headers,
        'content-range': `bytes ${part.from}-${part.to - 1}/${size}`,
        'content-length': String(part.to - part.from),
      };
      return { status: 206, headers, body: streamOf(file, part, free) };
    },
  };
}

async function* resumed(first: IteratorResult<Row[]>, rows: AsyncIterator<Row[]>): AsyncGenerator<Row[]> {
  for (let next = first; !next.done; next = await rows.next()) yield next.value;
}

const tooMuch = (most: string) => noRoom(`${most}, the most allowed.`);
