import type { Drained } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import { createFlushedUntil } from '@tally/service';

/**
 * Flushes what was acknowledged before the call to Postgres, for a merchant or all (null), and returns the freshness of
 * an answer that reads Postgres afterwards. Never fails: without usage-ingest the answer is not complete.
 */
export type Drain = (merchantId: string | null) => Promise<Drained>;

/** Calls during another one of the same merchant share the next one. */
export function createDrain({ ingest }: { ingest: Pick<IngestClient, 'flush'> }): Drain {
  const flushed = createFlushedUntil();
  const calls = new Map<string | null, { running: Promise<Drained>; next?: Promise<Drained> }>();

  async function drain(merchantId: string | null): Promise<Drained> {
    const merchantIds = merchantId === null ? undefined : [merchantId];
    try {
      const { complete, asOf } = await ingest.flush.beforeRead.mutate(merchantIds ? { merchantIds } : {});
      flushed.note(merchantIds, asOf);
      return { complete, asOf };
    } catch {
      return { complete: false, asOf: flushed.of(merchantIds) };
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
