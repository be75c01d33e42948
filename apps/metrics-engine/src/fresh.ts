import type { Drained } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';

/**
 * Flushes what was acknowledged before the call to Postgres, for a merchant or all (null), and returns the freshness of
 * an answer that reads Postgres afterwards. Never fails: without usage-ingest the answer is not complete.
 */
export type Drain = (merchantId: string | null) => Promise<Drained>;

/** Calls during another one of the same merchant share the next one. */
export function createDrain({
  ingest,
  lastFlushAt,
}: {
  ingest: Pick<IngestClient, 'flush'>;
  lastFlushAt: () => Promise<string | null>;
}): Drain {
  const calls = new Map<string | null, { running: Promise<Drained>; next?: Promise<Drained> }>();

  async function drain(merchantId: string | null): Promise<Drained> {
    try {
      const { complete, asOf } = await ingest.flush.beforeRead.mutate(
        merchantId === null ? {} : { merchantIds: [merchantId] },
      );
      return { complete, asOf };
    } catch {
      return { complete: false, asOf: await lastFlushAt().catch(() => null) };
    }
  }

  function start(merchantId: string | null): Promise<Drained> {
    const call: { running: Promise<Drained>; next?: Promise<Drained> } = { running: drain(merchantId) };
    calls.set(merchantId, call);
    void call.running.then(() => {
      if (!call.next) calls.delete(merchantId);
    });
    return call.running;
  }

  return (merchantId) => {
    const call = calls.get(merchantId);
    if (!call) return start(merchantId);
    call.next ??= call.running.then(() => start(merchantId));
    return call.next;
  };
}
