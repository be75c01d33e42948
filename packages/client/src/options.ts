import type { AttemptError } from './attempt.ts';
import type { Backoff } from './delivery.ts';
import { type Scales, scaleReader } from './entry.ts';
import type { Spool } from './spool/spool.ts';

export type TallyOptions = {
  /** The address of usage-ingest, such as `http://127.0.0.1:4001`. */
  url: string;
  /** An API key of the role producer or admin. */
  key: string;
  /** The addresses of metrics-engine and analytics-api, for `tally.engine` and `tally.analytics`. Default: `url`. */
  engineUrl?: string;
  analyticsUrl?: string;
  /**
   * Decimals of the metric types that have a meter with a scale, such as `{ audio_minutes: 3 }`; all other types except
   * `cost` take only whole numbers. `meters.list` returns the scales; they never change. Amounts with more decimals are
   * rejected, never rounded.
   */
  scales?: Scales;
  /**
   * Default true: sums entries without an id that share merchant, 15-minute bucket, status, dimensions and properties
   * into one entry with a `count`; sums and counts are exact, single calls are lost. False: sends each as an entry of
   * its own, under an id from the client.
   */
  merge?: boolean;
  /** How long an entry may wait for others before it is sent, default 1000 ms. */
  lingerMs?: number;
  /**
   * Entries per request, default and at most 1000. Lowered automatically if the server reports that a request is too
   * large.
   */
  maxBatch?: number;
  /** Bytes of one request, approximately; default 1 MiB. */
  maxBatchBytes?: number;
  /** Concurrent requests while they succeed, default 2; after a failure one until it succeeds. */
  concurrency?: number;
  /** How long to wait for an answer, default 10,000 ms. The request is then repeated, and still counts once. */
  timeoutMs?: number;
  /**
   * The limit of the queue in memory, in entries after merging (default 100,000) and in bytes, approximately (default
   * 64 MiB). Beyond it `record` refuses with QUEUE_FULL: accepted entries are never dropped to make room. With a spool
   * that promises `overflow`, the oldest go to disk instead, until that is full too.
   */
  maxQueuedEntries?: number;
  maxQueuedBytes?: number;
  /**
   * Absent: accepted records stay in memory until the server has them. They survive a server that is down, slow or
   * killed, and lost answers; they do not survive this process being killed. With `createSpool` of
   * `@tally/client/spool` they survive that too, as far as the spool promises: see SpoolPromise and Fsync there.
   */
  spool?: Spool;
  /**
   * The reaction to a 401 or 403. `retry` (default): entries are kept, `onError` is called, and they are tried again
   * every `backoff.slowMs`, so a corrected key loses nothing; `flush` and `close` do not wait for that. `reject`: they
   * go to `onRejected`.
   */
  authFailure?: 'retry' | 'reject';
  /** Pauses after failures, with full jitter and at least `Retry-After`. Default 100 ms, 30 s, 30 s. */
  backoff?: Partial<Backoff>;
  /**
   * Called with each accepted entry that will not be counted: refused by the server for its content, or left unsent by
   * `close` or the end of the process without a spool (code UNSENT; it may have been stored, so send it again only
   * under its id). At the end of the process only synchronous work is done. Default: a line on standard error.
   */
  onRejected?(rejected: Rejected): void;
  /**
   * Called when requests or the spool begin to fail, and when the reason changes; while a failure goes on, once a
   * minute. Nothing is lost by them. Default: a line on standard error for each new kind.
   */
  onError?(error: AttemptError): void;
  /**
   * Default true in a Node process: flushes at SIGTERM, SIGINT and when nothing is left to do. At `process.exit()`, an
   * uncaught exception or an unhandled rejection, writes the queue to the spool, also during `close`. After a signal
   * the process ends as it would have, unless others listen for it too.
   */
  hooks?: boolean;
  /** How long `close` and the hooks may take, default 10,000 ms. */
  closeDeadlineMs?: number;
  /** Replaces the global fetch. */
  fetch?: typeof fetch;
};

/** An entry or counter in the form to be sent, why it is not counted, and the number of records it stands for. */
export type Rejected = { entry: Record<string, unknown>; code: string; message: string; records: number };

const MIB = 1024 * 1024;

/** Returns the options with their defaults. Throws a TypeError for an invalid one. */
export function settingsOf(options: TallyOptions) {
  const { url, key, merge = true } = options;
  if (typeof url !== 'string' || !/^https?:\/\//.test(url)) throw new TypeError('url: Expected http://… or https://…');
  if (typeof key !== 'string' || key === '') throw new TypeError('key: Expected an API key');
  const whole = (name: WholeNumber, fallback: number, min: number, max: number): number => {
    const { [name]: value = fallback } = options;
    if (Number.isInteger(value) && value >= min && value <= max) return value;
    throw new TypeError(`${name}: Expected a whole number from ${min} to ${max}, not ${String(value)}`);
  };
  return {
    ...options,
    merge,
    hooks: options.hooks !== false,
    authFailure: options.authFailure ?? 'retry',
    scaleOf: scaleReader(options.scales),
    backoff: { firstMs: 100, mostMs: 30_000, slowMs: 30_000, ...options.backoff },
    maxQueuedEntries: whole('maxQueuedEntries', 100_000, 1, 10_000_000),
    maxQueuedBytes: whole('maxQueuedBytes', 64 * MIB, 1024, 2 ** 40),
    closeDeadlineMs: whole('closeDeadlineMs', 10_000, 0, 3_600_000),
    timeoutMs: whole('timeoutMs', 10_000, 1, 600_000),
    lingerMs: whole('lingerMs', 1000, 0, 3_600_000),
    maxBatch: whole('maxBatch', 1000, 1, 1000),
    maxBatchBytes: whole('maxBatchBytes', MIB, 1024, 256 * MIB),
    concurrency: whole('concurrency', 2, 1, 64),
    onError: catchErrorsOf(options.onError ?? warnOnChange()),
    onRejected: catchErrorsOf(options.onRejected ?? printRejected),
  };
}

type WholeNumber =
  | 'maxQueuedEntries'
  | 'maxQueuedBytes'
  | 'closeDeadlineMs'
  | 'timeoutMs'
  | 'lingerMs'
  | 'maxBatch'
  | 'maxBatchBytes'
  | 'concurrency';

/** Wraps a caller's callback: one that throws must not stop the delivery. */
function catchErrorsOf<T>(callback: (value: T) => void): (value: T) => void {
  return (value) => {
    try {
      callback(value);
    } catch (error) {
      console.error('tally: a callback threw', error);
    }
  };
}

function printRejected({ entry, code, message, records }: Rejected): void {
  console.error(`tally: ${records} record(s) not counted: ${code}: ${message}`, JSON.stringify(entry));
}

const REPEAT_WARNING_MS = 60_000;

function warnOnChange(): (error: AttemptError) => void {
  let last = '';
  let at = 0;
  return ({ code, message }) => {
    if (code === last && Date.now() - at < REPEAT_WARNING_MS) return;
    last = code;
    at = Date.now();
    console.warn(`tally: ${code}: ${message}`);
  };
}
