import type { IngestClient } from '@tally/contracts/client';
import type { RecordInput, Refusal, Taken } from './entry.ts';

export type GuardRequest = {
  merchantId: string;
  userId?: string | undefined;
  apiKey?: string | undefined;
  model?: string | undefined;
  /**
   * The most that the call may use: USD as a decimal string, whole numbers of calls and tokens. `requests`: default 1.
   */
  amounts: { cost?: string; requests?: number | string; tokens?: number | string };
  /** Identifies the call; a retry with the same id reserves nothing more. Default: a random one. */
  id?: string;
  /** Seconds after which the reservation expires, default 300. */
  ttlSeconds?: number;
  /** Allows or refuses the call if Tally is unavailable or does not answer in time. Default `allow`. */
  whenUnreachable?: 'allow' | 'refuse';
  /** How long to wait for the answer, default 2,000 ms. */
  timeoutMs?: number;
};

/** A call whose cost is reserved; pass it to the helpers of model calls in place of `tally`. */
export type Guarded = {
  /** The first entry settles the reservation; later ones are recorded as usual. Never throws. */
  record(entry: RecordInput): Taken;
  /** Ends the reservation of a call that used nothing. */
  release(): void;
  /** True if no budget was checked: Tally, or its store of budgets, was unavailable. */
  readonly degraded: boolean;
};

/**
 * A call was not made, because a budget refuses it, or because Tally is unavailable and `whenUnreachable` is `refuse`.
 */
export class GuardError extends Error {
  override readonly name = 'GuardError';
  readonly code: 'BUDGET_EXCEEDED' | 'BUDGET_UNREACHABLE';
  /** Ids of the budgets that refuse. */
  readonly refusedBy: readonly string[];
  constructor(code: GuardError['code'], message: string, options: { refusedBy?: readonly string[]; cause?: unknown }) {
    super(message, 'cause' in options ? { cause: options.cause } : {});
    this.code = code;
    this.refusedBy = options.refusedBy ?? [];
  }
}

export type Guards = {
  guard<Result>(request: GuardRequest, call: (guarded: Guarded) => Promise<Result>): Promise<Result>;
  /** Settlements and releases in flight. */
  readonly pending: number;
  /** Resolves when none is in flight. */
  idle(): Promise<void>;
};

/** An entry in the contract's form. */
type Sealed = Parameters<IngestClient['budgets']['settle']['mutate']>[0]['entry'] & {};

const RESERVE_TIMEOUT_MS = 2_000;
/** Statuses that do not concern the request itself. */
const TRANSIENT = new Set([408, 429]);

/** Reserves before a call, and settles or releases after it. */
export function createGuards(options: {
  ingest: () => IngestClient;
  newId: () => string;
  /** How long a settlement may take before the entry is sent like any other. */
  timeoutMs: number;
  seal(entry: RecordInput): Sealed | Refusal;
  /** Records an entry that could not be settled; it counts once, since it has an id. */
  record(entry: Sealed): void;
  onRejected(entry: Sealed, code: string, message: string): void;
}): Guards {
  const { ingest, seal } = options;
  const underWay = new Set<Promise<void>>();

  function run(work: Promise<void>): Promise<void> {
    underWay.add(work);
    return work.finally(() => underWay.delete(work));
  }

  async function settle(reservationId: string, entry: Sealed): Promise<void> {
    try {
      await ingest().budgets.settle.mutate(
        { reservationId, entry },
        { signal: AbortSignal.timeout(options.timeoutMs) },
      );
    } catch (error) {
      const rejection = rejectionOf(error);
      if (rejection) options.onRejected(entry, rejection.code, rejection.message);
      else options.record(entry);
    }
  }

  async function release(reservationId: string): Promise<void> {
    const signal = AbortSignal.timeout(options.timeoutMs);
    // If it cannot be released, it expires.
    await ingest()
      .budgets.release.mutate({ reservationId }, { signal })
      .catch(() => {});
  }

  async function reserve(request: GuardRequest): Promise<{ reservationId: string; degraded: boolean }> {
    const {
      amounts,
      id = options.newId(),
      whenUnreachable = 'allow',
      timeoutMs = RESERVE_TIMEOUT_MS,
      ...usage
    } = request;
    const wanted = Object.entries(amounts).flatMap(([measure, amount]) =>
      amount === undefined ? [] : [[measure, String(amount)]],
    );
    const input = { ...usage, id, amounts: Object.fromEntries(wanted) };
    const signal = AbortSignal.timeout(timeoutMs);
    // The reservation may have been made although its answer is lost.
    const unanswered = { reservationId: `${request.merchantId}/${encodeURIComponent(id)}`, degraded: true };
    const ask = () => ingest().budgets.reserve.mutate(input, { signal });
    try {
      const answer = await ask().catch((error: unknown) => {
        if (rejectionOf(error) || signal.aborted) throw error;
        return ask();
      });
      if (answer.allowed) return { reservationId: answer.reservationId!, degraded: answer.degraded };
      const reason = answer.degraded ? 'cannot be asked, and its setting is to refuse' : 'is used up';
      throw new GuardError('BUDGET_EXCEEDED', `Budget ${answer.refusedBy.join(', ')} ${reason}.`, {
        refusedBy: answer.refusedBy,
      });
    } catch (error) {
      if (error instanceof GuardError || rejectionOf(error)) throw error;
      if (whenUnreachable === 'allow') return unanswered;
      throw new GuardError('BUDGET_UNREACHABLE', 'Tally did not say whether the budgets allow the call.', {
        cause: error,
      });
    }
  }

  return {
    async guard(request, call) {
      const { reservationId, degraded } = await reserve(request);
      let ended: Promise<void> | undefined;
      const guarded: Guarded = {
        degraded,
        record(entry) {
          const sealed = seal(entry);
          if ('ok' in sealed) return sealed;
          if (ended === undefined) ended = run(settle(reservationId, sealed));
          else options.record(sealed);
          return { ok: true };
        },
        release() {
          ended ??= run(release(reservationId));
        },
      };
      try {
        const result = await call(guarded);
        await ended;
        return result;
      } catch (error) {
        guarded.release();
        await ended;
        throw error;
      }
    },
    get pending() {
      return underWay.size;
    },
    async idle() {
      while (underWay.size > 0) await Promise.allSettled(underWay);
    },
  };
}

/** Returns the code and message of a permanent rejection; undefined if the request may be sent again. */
function rejectionOf(error: unknown): { code: string; message: string } | undefined {
  const { data, message } = (error ?? {}) as { data?: { code?: unknown; httpStatus?: unknown }; message?: unknown };
  const status = data?.httpStatus;
  if (typeof status !== 'number' || status < 400 || status >= 500 || TRANSIENT.has(status)) return undefined;
  return { code: String(data?.code), message: String(message) };
}
