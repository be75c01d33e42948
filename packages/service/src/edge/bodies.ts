import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createGunzip } from 'node:zlib';
import { TallyError } from '@tally/contracts';
import { createJsonCounter, HARMLESS_BYTES, type JsonLimits } from './json-limits.ts';

export type Body = {
  readonly bytes: Buffer;
  /** Releases the memory budget of the body. Call it once the request is answered. */
  release(): void;
};

export type Bodies = {
  /**
   * Reads a whole body. Throws BODY_TOO_LARGE beyond `limit` inflated bytes, RATE_LIMITED or UNAVAILABLE if the budget
   * of the caller or of all callers is used up, BODY_TIMEOUT without progress, UNSUPPORTED_MEDIA_TYPE for an encoding
   * other than gzip, INVALID_INPUT for JSON over its limits or text that is not UTF-8, and RequestAborted when the
   * client leaves. Each is thrown as soon as it is known and releases the budget. `json`: undefined for binary bodies.
   */
  read(
    request: IncomingMessage,
    options: { limit: number; callerId: string; json: JsonLimits | undefined },
  ): Promise<Body>;
  /** Bytes held now. */
  held(): number;
};

export type BodiesOptions = {
  /** Budgets in bytes: of all bodies held at once, and of one caller. */
  total: number;
  perCaller: number;
  /** A body that makes less than a KiB of progress in this time is abandoned. */
  progressMs: number;
};

/** Thrown when a client leaves before its request is complete, so nobody waits for an answer. */
export class RequestAborted extends Error {
  override readonly name = 'RequestAborted';
}

type Reading = { received: number; before: number | undefined; fail(error: Error): void };

const MIN_PROGRESS_BYTES = 1024;
/** Parsing and checking a larger body takes milliseconds, so each turn of the event loop handles one. */
const HEAVY_BYTES = 32 * 1024;
const NOTHING = Buffer.alloc(0);
const INFLATED_PIECE = 64 * 1024;

/** The one budget of request bodies, whatever their path, encoding and transfer coding. */
export function createBodies({ total, perCaller, progressMs }: BodiesOptions): Bodies {
  const byCaller = new Map<string, number>();
  const reading = new Set<Reading>();
  let held = 0;
  let turn: Promise<unknown> = Promise.resolve();
  let watch: NodeJS.Timeout | undefined;

  /** Reserves budget, or returns why it is refused. */
  function take(callerId: string, bytes: number): TallyError | undefined {
    const own = (byCaller.get(callerId) ?? 0) + bytes;
    if (own > perCaller) return ownRoomUsed(perCaller);
    if (held + bytes > total) return roomUsed();
    byCaller.set(callerId, own);
    held += bytes;
    return undefined;
  }

  function give(callerId: string, bytes: number): void {
    held -= bytes;
    const own = (byCaller.get(callerId) ?? 0) - bytes;
    if (own > 0) byCaller.set(callerId, own);
    else byCaller.delete(callerId);
  }

  /** Runs steps of work on large bodies, one per turn of the event loop. `work` must not throw. */
  function inTurn(work: () => void): void {
    turn = turn.then(() => nextTurn()).then(work);
  }

  /** Ends bodies without progress since the last check; one timer serves all bodies. */
  function look(): void {
    for (const each of reading) {
      if (each.before !== undefined && each.received - each.before < MIN_PROGRESS_BYTES) each.fail(tooSlow(progressMs));
      else each.before = each.received;
    }
    if (reading.size > 0) return;
    clearInterval(watch);
    watch = undefined;
  }

  return {
    held: () => held,
    read(request, { limit, callerId, json }) {
      const { 'content-length': length, 'content-encoding': named } = request.headers;
      // Coding names are case-insensitive, and `x-gzip` is an old name of gzip (RFC 9110, 8.4.1).
      const encoding = named?.toLowerCase().replace(/^x-gzip$/, 'gzip');
      const says = length === undefined ? undefined : Number(length);
      if (says === undefined && request.headers['transfer-encoding'] === undefined)
        return Promise.resolve({ bytes: NOTHING, release() {} });
      if (encoding !== undefined && encoding !== 'gzip' && encoding !== 'identity')
        return Promise.reject(unknownEncoding(encoding));
      if (says !== undefined && says > limit) return Promise.reject(tooLarge(limit));

      return new Promise<Body>((resolve, reject) => {
        const chunks: Buffer[] = [];
        let count: ((piece: Uint8Array) => void) | undefined;
        let counted = 0;
        let own = 0;
        const gunzip = encoding === 'gzip' ? createGunzip({ chunkSize: INFLATED_PIECE }) : undefined;
        const source: Readable = gunzip ?? request;

        const stop = () => {
          reading.delete(state);
          request.off('close', onClose);
          source.off('data', onData);
          source.off('end', onEnd);
          gunzip?.off('error', onBroken);
          if (!gunzip) return;
          request.off('data', onReceived);
          request.unpipe(gunzip);
          gunzip.on('error', () => {});
          gunzip.destroy();
        };
        const fail = (error: Error) => {
          stop();
          request.pause();
          chunks.length = 0;
          give(callerId, own);
          own = 0;
          reject(error);
        };
        const state: Reading = { received: 0, before: undefined, fail };
        const onReceived = (chunk: Buffer) => {
          state.received += chunk.length;
        };
        const isOver = () => !reading.has(state);
        const onData = (chunk: Buffer) => {
          if (own + chunk.length > limit) return fail(tooLarge(limit));
          const refusal = take(callerId, chunk.length);
          if (refusal) return fail(refusal);
          own += chunk.length;
          chunks.push(chunk);
          if (!gunzip) state.received = own;
          if (own <= HARMLESS_BYTES || !json) return;
          // Counted later: many chunks arrive in one turn of the event loop, and counting takes longer than reading.
          source.pause();
          inTurn(() => {
            if (isOver()) return;
            count ??= createJsonCounter(json);
            try {
              while (counted < chunks.length) count(chunks[counted++]!);
            } catch (error) {
              return fail(error as TallyError);
            }
            source.resume();
          });
        };
        const onEnd = () => {
          stop();
          const bytes = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
          let released = false;
          const body = {
            bytes,
            release() {
              if (!released) give(callerId, own);
              released = true;
            },
          };
          const handOver = () => {
            // A decoder would replace broken bytes, and names that differ would become the same name.
            if (!json || isUtf8(bytes)) return resolve(body);
            body.release();
            reject(new TallyError('INVALID_INPUT', 'The body is not valid UTF-8.'));
          };
          if (own <= HEAVY_BYTES) return handOver();
          // Many bodies that end in one turn would block the event loop for the sum of their times.
          inTurn(handOver);
        };
        const onBroken = () =>
          fail(new TallyError('INVALID_INPUT', 'The body is not readable as gzip, as its Content-Encoding says.'));
        const onClose = () => {
          if (!request.complete) fail(new RequestAborted('The client left in the middle of its body.'));
        };

        reading.add(state);
        watch ??= setInterval(look, progressMs).unref();
        if (gunzip) request.on('data', onReceived);
        request.on('close', onClose);
        source.on('data', onData);
        source.on('end', onEnd);
        if (!gunzip) return;
        gunzip.on('error', onBroken);
        request.pipe(gunzip);
      });
    },
  };
}

const tooLarge = (limit: number) =>
  new TallyError('BODY_TOO_LARGE', `The body is larger than ${limit} bytes.`, { details: { maxBytes: limit } });

const ownRoomUsed = (bytes: number) =>
  new TallyError('RATE_LIMITED', `The bodies of this caller's open requests are larger than ${bytes} bytes together.`, {
    details: { maxBytesAtOnce: bytes, retryAfter: 1 },
  });

const roomUsed = () =>
  new TallyError('UNAVAILABLE', 'All callers together are sending more than this process can hold.', {
    details: { retryAfter: 1 },
  });

const tooSlow = (progressMs: number) =>
  new TallyError('BODY_TIMEOUT', `Less than ${MIN_PROGRESS_BYTES} bytes of the body arrived within ${progressMs} ms.`);

const unknownEncoding = (encoding: string) =>
  new TallyError('UNSUPPORTED_MEDIA_TYPE', `Content-Encoding ${encoding.slice(0, 40)} is not understood, gzip is.`);
