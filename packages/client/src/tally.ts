import {
  type AnalyticsClient,
  createAnalyticsClient,
  createEngineClient,
  createIngestClient,
  type EngineClient,
  type IngestClient,
} from '@tally/contracts/client';
import { createAttempts, type Item } from './attempt.ts';
import { createDelivery, type Delivery, within } from './delivery.ts';
import {
  checkCounter,
  checkNames,
  type RecordInput,
  type Refusal,
  refusal,
  type Taken,
  type TrackInput,
} from './entry.ts';
import { type Kind, printGroup } from './group.ts';
import { createGuards, type Guarded, type GuardRequest, type Guards } from './guard.ts';
import { installHooks } from './hooks.ts';
import { createMerger } from './merge.ts';
import { settingsOf, type TallyOptions } from './options.ts';

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
  const settings = settingsOf(options);
  const { url, key, spool, timeoutMs, closeDeadlineMs, maxQueuedEntries, scaleOf, onRejected, onError } = settings;
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
    merge: settings.merge,
    scaleOf,
    newId,
    admit(bytes) {
      const { memory } = delivery;
      const full =
        merger.size + memory.entries >= maxQueuedEntries ||
        merger.bytes + memory.bytes + bytes > settings.maxQueuedBytes;
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
      fetch: settings.fetch ?? fetch,
      timeoutMs,
      authFailure: settings.authFailure,
      onRequest(bytes) {
        delivery.counts.requests++;
        bytesSent += bytes;
      },
    }),
    lingerMs: settings.lingerMs,
    maxBatch: settings.maxBatch,
    maxBatchBytes: settings.maxBatchBytes,
    concurrency: settings.concurrency,
    spillAbove: maxQueuedEntries / 2,
    backoff: settings.backoff,
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

  const removeHooks = !settings.hooks
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
  const reach = (serviceUrl: string) => ({
    url: serviceUrl,
    key,
    ...(settings.fetch ? { fetch: settings.fetch } : {}),
  });
  return Object.defineProperties(tally, {
    ingest: { get: () => (clients.ingest ??= createIngestClient(reach(url))) },
    engine: { get: () => (clients.engine ??= createEngineClient(reach(settings.engineUrl ?? url))) },
    analytics: { get: () => (clients.analytics ??= createAnalyticsClient(reach(settings.analyticsUrl ?? url))) },
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
