import { once } from 'node:events';
import { constants, createGzip } from 'node:zlib';

/** Compresses a file while it is written. If the source fails, everything before is in the output, then its error. */
export async function* gzipped(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const gzip = createGzip({ level: constants.Z_BEST_SPEED });
  let out: Uint8Array[] = [];
  gzip.on('data', (chunk: Uint8Array) => out.push(chunk));
  const taken = () => {
    const ready = out;
    out = [];
    return ready;
  };
  try {
    for await (const chunk of chunks) {
      if (!gzip.write(chunk)) await once(gzip, 'drain');
      yield* taken();
    }
  } catch (error) {
    await new Promise<void>((resolve) => gzip.flush(constants.Z_SYNC_FLUSH, () => resolve()));
    yield* taken();
    throw error;
  }
  gzip.end();
  await once(gzip, 'end');
  yield* taken();
}
