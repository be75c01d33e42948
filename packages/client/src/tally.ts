import {
  type AnalyticsClient,
  createAnalyticsClient,
  createEngineClient,
  createIngestClient,
  type EngineClient,
  type IngestClient,
} from '@tally/contracts/client';
import { type AttemptError, createAttempts, type Item } from './attempt.ts';
import { type Backoff, createDelivery, type Delivery, within } from './delivery.ts';
import {
  checkCounter,
  checkNames,
  type RecordInput,
  type Refusal,
  refusal,
  type Scales,
  scaleReader,
  type Taken,
  type TrackInput,
} from './entry.ts';
import { type Kind, printGroup } from './group.ts';
import { createGuards, type Guarded, type GuardRequest, type Guards } from './guard.ts';
import { installHooks } from './hooks.ts';
import { createMerger } from './merge.ts';
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

export type Stats = {
  /** Accepted calls of `record` and `track`. */
  recorded: number;
  /** Those of them that were summed into an existing entry. */
  merged: number;
  /** Refused calls. */
  refused: number;
  /** Records that Tally has acknowledged; the entries they were sent as; entries of these that Tally already had. */
  sent: number;
  sentEntries: number;
  duplicates: number;
  /** Accepted records that were passed to `onRejected`. */
  rejected: number;
  /** Entries now waiting: in memory, on disk. */
  queued: number;
  queuedOnDisk: number;
  inFlight: number;
  /** Requests made, those of them that repeated a failed one, characters sent. */
  requests: number;
  retried: number;
  bytesSent: number;
  /** Entries acknowledged per request made. */
  entriesPerRequest: number;
  /** Entries written to the spool; entries and records that the previous process left there. */
  spooled: number;
  recovered: number;
};

export type Tally = {
  /**
   * Records usage. Returns at once and never throws; `ok: false` has the reason for refusing it. An accepted record is
   * counted exactly once, or passed to `onRejected`, within what `spool` promises.
   */
  record(entry: RecordInput): Taken;
  /** Adds to a plain counter (`usage.track`), with the promise of `record`. Sums calls of a 15-minute bucket. */
  track(call: TrackInput): Taken;
  /**
   * Reserves the most that a call may use in all budgets that it counts in, makes the call, and settles with the first
   * entry that the call records with `guarded.record`, also after it returned, as streams do. Throws a GuardError if a
   * budget refuses, before the call is made. A call that throws without recording releases its reservation. If the
   * settlement fails, the entry is sent like any other, and the reservation expires.
   */
  guard<Result>(request: GuardRequest, call: (guarded: Guarded) => Promise<Result>): Promise<Result>;
  /**
   * Resolves when everything recorded before is acknowledged or rejected, when the server rejects the key, or after
   * `deadlineMs` (default 30 s). Never rejects.
   */
  flush(options?: { deadlineMs?: number }): Promise<{ ok: boolean; queued: number }>;
  /**
   * Accepts nothing more, sends the queue, and stops. Past the deadline (default `closeDeadlineMs`), or at once when
   * the server rejects the key (`onError` gets its 401 or 403), the rest goes to the spool, for the next process, or to
   * `onRejected` as UNSENT. Closing again returns the same result.
   */
  close(options?: { deadlineMs?: number }): Promise<{ ok: boolean; spooled: number; unsent: number }>;
  stats(): Stats;
  /** Typed clients of the services, for everything else. */
  readonly ingest: IngestClient;
  readonly engine: EngineClient;
  readonly analytics: AnalyticsClient;
};

const MIB = 1024 * 1024;
const TAKEN: Taken = Object.freeze({ ok: true });
const CLOSED = refusal('CLOSED', 'This client is closed.');
const UNREADABLE = refusal('INVALID_ENTRY', 'The entry could not be read.');

/** Says why an entry could not be read. Without a reason, reading it threw: it is no object, or has such a getter. */
function unreadable(check: () => Refusal | undefined): Refusal {
  try {
    return check() ?? UNREADABLE;
  } catch {
    return UNREADABLE;
  }
}

/** Creates a client that records usage in the background. Throws only if its options are invalid. */
export function createTally(options: TallyOptions): Tally {
  const { url, key, merge = true, spool } = options;
  if (typeof url !== 'string' || !/^https?:\/\//.test(url)) throw new TypeError('url: Expected http://… or https://…');
  if (typeof key !== 'string' || key === '') throw new TypeError('key: Expected an API key');
  const maxQueuedEntries = whole('maxQueuedEntries', options.maxQueuedEntries, 100_000, 1, 10_000_000);
  const maxQueuedBytes = whole('maxQueuedBytes', options.maxQueuedBytes, 64 * MIB, 1024, 2 ** 40);
  const closeDeadlineMs = whole('closeDeadlineMs', options.closeDeadlineMs, 10_000, 0, 3_600_000);
  const timeoutMs = whole('timeoutMs', options.timeoutMs, 10_000, 1, 600_000);
  const scaleOf = scaleReader(options.scales);
  const onError = catchErrorsOf(options.onError ?? warnOnChange());
  const onRejected = catchErrorsOf(options.onRejected ?? printRejected);
  const prefix = crypto.randomUUID().replaceAll('-', '').slice(0, 20);
  let ids = 0;
  const newId = () => `${prefix}-${(ids++).toString(36)}`;
  let recorded = 0;
  let refused = 0;
  let openedGroups = 0;
  let recoveredRecords = 0;
  let bytesSent = 0;
  let isClosed = false;
  let closing: ReturnType<Tally['close']> | undefined;

  const merger = createMerger({
    merge,
    scaleOf,
    newId,
    admit(bytes) {
      const { memory } = delivery;
      const full =
        merger.size + memory.entries >= maxQueuedEntries || merger.bytes + memory.bytes + bytes > maxQueuedBytes;
      if (full && !delivery.spill()) {
        return refusal(
          'QUEUE_FULL',
          `${merger.size + memory.entries} entries wait to be sent; there is no room for more.`,
        );
      }
      delivery.schedule();
      openedGroups++;
      return undefined;
    },
    ...(spool?.promise === 'record' ? { log } : {}),
  });

  const delivery: Delivery = createDelivery({
    merger,
    spool,
    attempts: createAttempts({
      url,
      key,
      fetch: options.fetch ?? fetch,
      timeoutMs,
      authFailure: options.authFailure ?? 'retry',
      onRequest(bytes) {
        delivery.counts.requests++;
        bytesSent += bytes;
      },
    }),
    lingerMs: whole('lingerMs', options.lingerMs, 1000, 0, 3_600_000),
    maxBatch: whole('maxBatch', options.maxBatch, 1000, 1, 1000),
    maxBatchBytes: whole('maxBatchBytes', options.maxBatchBytes, MIB, 1024, 256 * MIB),
    concurrency: whole('concurrency', options.concurrency, 2, 1, 64),
    spillAbove: maxQueuedEntries / 2,
    backoff: { firstMs: 100, mostMs: 30_000, slowMs: 30_000, ...options.backoff },
    random: Math.random,
    onRefused({ item, code, message }) {
      onRejected({ entry: JSON.parse(item.json), code, message, records: item.records });
    },
    onError,
  });

  function log(kind: Kind, input: RecordInput | TrackInput, time: number, id: string | undefined): Refusal | undefined {
    if (spool!.full)
      return refusal('SPOOL_FULL', 'The spool is full; nothing more is taken until some of it was sent.');
    try {
      spool!.log(textOf(kind, input, time, id));
    } catch (error) {
      return refusal('SPOOL_FAILED', `The spool could not be written: ${String(error)}`);
    }
    if (spool!.wantsSeal) delivery.schedule();
    return undefined;
  }

  if (spool) {
    if (spool.damagedBytes > 0) {
      onError({ code: 'SPOOL_DAMAGED', message: `${spool.damagedBytes} bytes of the spool could not be read.` });
    }
    for (const text of spool.left.records.splice(0)) {
      const [kind, input] = JSON.parse(text) as [Kind, RecordInput & TrackInput];
      const bad = merger[kind](input, Date.now(), true);
      if (bad) onRejected({ entry: input, code: bad.code, message: bad.message, records: 1 });
      else recoveredRecords++;
    }
    openedGroups += merger.size;
    if (merger.size > 0) delivery.schedule();
  }

  let ownGuards: Guards | undefined;
  const guards = () => (ownGuards ??= openGuards());

  function openGuards(): Guards {
    const sealer = createMerger({ merge: false, scaleOf, newId, admit: () => undefined });
    const reject = (entry: Record<string, unknown>, code: string, message: string) =>
      onRejected({ entry, code, message, records: 1 });
    return createGuards({
      ingest: () => (tally as Tally).ingest,
      newId,
      timeoutMs,
      seal(entry) {
        try {
          return sealer.record(entry, Date.now()) ?? JSON.parse(printGroup(sealer.take()[0]!));
        } catch {
          return unreadable(() => checkNames(entry));
        }
      },
      record(entry) {
        // Guards begun before `close` are settled with the rest; later nothing is.
        const taken = isClosed ? CLOSED : count(merger.record(entry as RecordInput, Date.now()));
        if (!taken.ok) reject(entry, taken.code, taken.message);
      },
      onRejected: reject,
    });
  }

  /** Waits for settlements and releases in flight, at most `ms`. */
  async function settled(ms: number): Promise<void> {
    if (ownGuards) await within(ownGuards.idle(), performance.now() + ms);
  }

  function rejectUnsent(items: readonly Item[], message: string): void {
    for (const { json, records } of items) onRejected({ entry: JSON.parse(json), code: 'UNSENT', message, records });
  }

  function count(result: Refusal | undefined): Taken {
    if (result === undefined) {
      recorded++;
      return TAKEN;
    }
    refused++;
    return result;
  }

  const tally: Omit<Tally, 'ingest' | 'engine' | 'analytics'> = {
    record(entry) {
      if (closing !== undefined) return count(CLOSED);
      try {
        return count(merger.record(entry, Date.now()));
      } catch {
        return count(unreadable(() => checkNames(entry)));
      }
    },

    track(call) {
      if (closing !== undefined) return count(CLOSED);
      try {
        return count(merger.track(call, Date.now()));
      } catch {
        return count(unreadable(() => checkCounter(call)));
      }
    },

    guard: (request, call) =>
      closing === undefined ? guards().guard(request, call) : Promise.reject(new Error(CLOSED.message)),

    async flush({ deadlineMs = 30_000 } = {}) {
      await settled(deadlineMs);
      const queued = await delivery.flush(deadlineMs);
      return { ok: queued === 0, queued };
    },

    close({ deadlineMs = closeDeadlineMs } = {}) {
      closing ??= (async () => {
        await settled(deadlineMs);
        const { spooled, unsent } = await delivery.close(deadlineMs);
        isClosed = true;
        removeHooks();
        rejectUnsent(unsent, 'The client was closed before it could be sent.');
        spool?.close();
        return { ok: unsent.length === 0 && spooled === 0, spooled, unsent: unsent.length };
      })();
      return closing;
    },

    stats() {
      const { counts } = delivery;
      return {
        recorded,
        merged: Math.max(0, recorded + recoveredRecords - openedGroups),
        refused,
        sent: counts.sentRecords,
        sentEntries: counts.sentEntries,
        duplicates: counts.duplicates,
        rejected: counts.rejectedRecords,
        queued: merger.size + delivery.memory.entries,
        queuedOnDisk: delivery.spooled,
        inFlight: delivery.inFlight,
        requests: counts.requests,
        retried: counts.retried,
        bytesSent,
        entriesPerRequest: counts.requests === 0 ? 0 : counts.sentEntries / counts.requests,
        spooled: counts.spooledEntries,
        recovered: counts.recoveredEntries + recoveredRecords,
      };
    },
  };

  const removeHooks =
    options.hooks === false
      ? () => {}
      : installHooks({
          get pending() {
            return (ownGuards?.pending ?? 0) + merger.size + delivery.memory.entries + delivery.spooled > 0;
          },
          flush: () => tally.flush({ deadlineMs: closeDeadlineMs }),
          close: (closeOptions) => tally.close(closeOptions),
          save: () => rejectUnsent(delivery.saveNow(), 'The process ended before it could be sent.'),
        });

  const clients: { ingest?: IngestClient; engine?: EngineClient; analytics?: AnalyticsClient } = {};
  const reach = (serviceUrl: string) => ({ url: serviceUrl, key, ...(options.fetch ? { fetch: options.fetch } : {}) });
  return Object.defineProperties(tally, {
    ingest: { get: () => (clients.ingest ??= createIngestClient(reach(url))) },
    engine: { get: () => (clients.engine ??= createEngineClient(reach(options.engineUrl ?? url))) },
    analytics: { get: () => (clients.analytics ??= createAnalyticsClient(reach(options.analyticsUrl ?? url))) },
  }) as Tally;
}

/** A record for the log: the fields needed to count it again, in a form that later checks accept. */
function textOf(kind: Kind, input: RecordInput | TrackInput, time: number, id: string | undefined): string {
  const { merchantId } = input;
  let fields: object;
  if ('metricType' in input) {
    fields = { id, merchantId, metricType: input.metricType, by: input.by, time };
  } else {
    const { metrics, userId, apiKey, model, provider, status, count, properties } = input;
    fields = { id, merchantId, time, metrics, userId, apiKey, model, provider, status, count, properties };
  }
  try {
    return JSON.stringify([kind, fields]);
  } catch {
    return JSON.stringify([kind, fields], (_, value) => (typeof value === 'bigint' ? value.toString() : value));
  }
}

function whole(name: string, value: number | undefined, fallback: number, min: number, max: number): number {
  if (value === undefined) return fallback;
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new TypeError(`${name}: Expected a whole number from ${min} to ${max}, not ${String(value)}`);
}

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
