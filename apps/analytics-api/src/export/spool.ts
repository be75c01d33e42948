import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TallyError } from '@tally/contracts';

/** A file written once, and read while and after that; deleted when it is closed, or when the process dies. */
export type Spool = {
  /** Throws UNAVAILABLE if the disk does not take the whole chunk; then nothing is appended. */
  append(chunk: Uint8Array): Promise<void>;
  /** Ends the file: readers get the rest, then the end, or the error. */
  finish(error?: unknown): void;
  /**
   * Returns bytes from a position on, as soon as there are some; undefined at the end. Throws the error that the writer
   * finished with.
   */
  read(from: number): Promise<Uint8Array | undefined>;
  /** Bytes appended so far. */
  readonly bytes: number;
  /** True once it is finished without an error. */
  readonly isWhole: boolean;
  close(): Promise<void>;
};

const READ_BYTES = 64 * 1024;
export const RETRY_AFTER_SECONDS = 5;

/** Opens a spool in the system's folder for temporary files. Throws UNAVAILABLE if it cannot be written. */
export async function openSpool(): Promise<Spool> {
  const file = await newFile().catch((cause: unknown) => {
    throw unwritable(cause);
  });
  let written = 0;
  let finished: { error?: unknown } | undefined;
  const waiting: (() => void)[] = [];
  const changed = () => {
    for (const go of waiting.splice(0)) go();
  };
  return {
    get bytes() {
      return written;
    },
    get isWhole() {
      return finished !== undefined && !('error' in finished);
    },
    async append(chunk) {
      // A disk that is almost full takes a part of a chunk without an error.
      for (let at = 0; at < chunk.byteLength; ) {
        const { bytesWritten } = await file.write(chunk, at, chunk.byteLength - at, written + at).catch((cause) => {
          throw unwritable(cause);
        });
        at += bytesWritten;
      }
      written += chunk.byteLength;
      changed();
    },
    finish(error) {
      finished ??= error === undefined ? {} : { error };
      changed();
    },
    async read(from) {
      while (from >= written && !finished) await new Promise<void>((resolve) => waiting.push(resolve));
      if (from < written) {
        const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, written - from));
        const { bytesRead } = await file.read(buffer, 0, buffer.length, from);
        if (bytesRead === 0) throw new Error(`An export of ${written} bytes on disk ends at ${from}.`);
        return buffer.subarray(0, bytesRead);
      }
      if (finished && 'error' in finished) throw finished.error;
      return undefined;
    },
    close: () => file.close(),
  };
}

async function newFile(): Promise<FileHandle> {
  const path = join(tmpdir(), `tally-export-${randomUUID()}`);
  const file = await open(path, 'wx+', 0o600);
  // Without a name it uses no disk space once it is closed, however that happens.
  await unlink(path);
  return file;
}

const unwritable = (cause: unknown) => noRoom('The disk takes no more exports.', cause);

/** The error of an export for which there is no room now. */
export const noRoom = (message: string, cause?: unknown) =>
  new TallyError('UNAVAILABLE', `${message} Try again later.`, { details: { retryAfter: RETRY_AFTER_SECONDS }, cause });
