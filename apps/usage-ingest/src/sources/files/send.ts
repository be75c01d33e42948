import { setTimeout as wait } from 'node:timers/promises';
import { MAX_BATCH, type RecordResult, type UsageEntry } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import { TRPCClientError } from '@trpc/client';

export type SendOptions = {
  client: IngestClient;
  backfill?: boolean;
  onBatch(entries: number, result: RecordResult): void;
};

export type SendSummary = {
  entries: number;
  accepted: number;
  duplicates: number;
  /** The first 100 rejections; all events beyond `accepted` and `duplicates` were rejected. */
  rejected: RecordResult['rejected'];
};

const BATCHES_AT_ONCE = 4;
/** How long one batch is retried before the import gives up. */
const PATIENCE_MS = 120_000;

/**
 * Sends events in batches, a bounded number at once, and repeats a whole batch until it is answered: with stable ids
 * nothing is counted twice. Throws errors that retrying cannot fix.
 */
export async function sendEntries(
  entries: AsyncIterable<UsageEntry> | Iterable<UsageEntry>,
  { client, backfill = false, onBatch }: SendOptions,
): Promise<SendSummary> {
  const summary: SendSummary = { entries: 0, accepted: 0, duplicates: 0, rejected: [] };
  const underWay = new Set<Promise<void>>();

  const send = async (batch: UsageEntry[]) => {
    const result = await untilAnswered(() => client.usage.record.mutate({ entries: batch, backfill }));
    summary.entries += batch.length;
    summary.accepted += result.accepted;
    summary.duplicates += result.duplicates;
    summary.rejected.push(...result.rejected.slice(0, Math.max(0, 100 - summary.rejected.length)));
    onBatch(batch.length, result);
  };
  const dispatch = async (batch: UsageEntry[]) => {
    const sent = send(batch).finally(() => underWay.delete(sent));
    underWay.add(sent);
    if (underWay.size >= BATCHES_AT_ONCE) await Promise.race(underWay);
  };

  try {
    let batch: UsageEntry[] = [];
    for await (const entry of entries) {
      batch.push(entry);
      if (batch.length < MAX_BATCH) continue;
      await dispatch(batch);
      batch = [];
    }
    if (batch.length > 0) await dispatch(batch);
    await Promise.all(underWay);
    return summary;
  } finally {
    await Promise.allSettled(underWay);
  }
}

async function untilAnswered<T>(call: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + PATIENCE_MS;
  for (let attempt = 0; ; attempt++) {
    try {
      return await call();
    } catch (error) {
      if (!mayPass(error) || Date.now() > deadline) throw error;
      await wait(Math.min(100 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2));
    }
  }
}

/** No answer, or one that asks for a retry. */
function mayPass(error: unknown): boolean {
  if (!(error instanceof TRPCClientError)) return false;
  const status = error.data?.httpStatus as number | undefined;
  return status === undefined || status === 429 || status >= 500;
}
