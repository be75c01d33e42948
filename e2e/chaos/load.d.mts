import type { IngestClient } from '@tally/contracts/client';

/** What was acknowledged: merchant → Map of `date id` → tokens. */
export type Acknowledged = Map<string, Map<string, string>>;

export function startLoad(
  run: string,
  ingests: readonly { client: IngestClient }[],
  random: () => number,
  options?: { pauseMs?: number },
): { stop(): Promise<Acknowledged> };
