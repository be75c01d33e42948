import type { IncomingMessage } from 'node:http';

/** Node drops a body of this size by itself, so that the connection can be used again. */
const MAX_SMALL_BYTES = 64 * 1024;
const MAX_DROPPED_BYTES = 1024 * 1024;
const DROPPING_MS = 2_000;

/** Returns true if more of a body is to come than Node drops by itself to keep the connection. */
export function isSending({ headers, readableEnded }: IncomingMessage): boolean {
  if (readableEnded) return false;
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > MAX_SMALL_BYTES;
}

/**
 * Gives a client that is still sending its body time to read the answer. Drops up to 1 MiB of the rest, then stops
 * reading. Calls `then` when the body or its connection ends, or after 2 seconds.
 */
export function dropBody(request: IncomingMessage, then: () => void): void {
  let left = MAX_DROPPED_BYTES;
  const done = () => {
    clearTimeout(timer);
    request.off('data', drop).off('end', done).off('close', done);
    request.pause();
    then();
  };
  const drop = (chunk: Buffer) => {
    left -= chunk.length;
    // Closing now would reset the connection, and a client that is still sending could not read its answer.
    if (left < 0) request.pause();
  };
  const timer = setTimeout(done, DROPPING_MS);
  request.on('data', drop).on('end', done).on('close', done);
  request.resume();
}
