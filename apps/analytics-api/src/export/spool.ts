import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A file written and read concurrently; deleted when it is closed, or when the process dies. */
export type Spool = {
  append(chunk: Uint8Array): Promise<void>;
  /** Ends the file: the reader gets the rest, then the end, or the error. */
  finish(error?: unknown): void;
  /**
   * Returns the next bytes, as soon as there are some; undefined at the end. Throws the error that the writer finished
   * with.
   */
  read(): Promise<Uint8Array | undefined>;
  /** Bytes appended so far. */
  readonly bytes: number;
  close(): Promise<void>;
};

const READ_BYTES = 64 * 1024;

/** Opens a spool in the system's folder for temporary files. */
export async function openSpool(): Promise<Spool> {
  const path = join(tmpdir(), `tally-export-${randomUUID()}`);
  const file: FileHandle = await open(path, 'wx+', 0o600);
  // Without a name it uses no disk space once it is closed, however that happens.
  await unlink(path);
  let written = 0;
  let taken = 0;
  let finished: { error?: unknown } | undefined;
  let changed = () => {};
  return {
    get bytes() {
      return written;
    },
    async append(chunk) {
      await file.writev([chunk], written);
      written += chunk.byteLength;
      changed();
    },
    finish(error) {
      finished ??= error === undefined ? {} : { error };
      changed();
    },
    async read() {
      while (taken === written && !finished)
        await new Promise<void>((resolve) => {
          changed = resolve;
        });
      if (taken < written) {
        const { bytesRead, buffer } = await file.read(
          Buffer.allocUnsafe(Math.min(READ_BYTES, written - taken)),
          0,
          undefined,
          taken,
        );
        taken += bytesRead;
        return buffer.subarray(0, bytesRead);
      }
      if (finished && 'error' in finished) throw finished.error;
      return undefined;
    },
    close: () => file.close(),
  };
}
