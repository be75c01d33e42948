import type { analytics } from '@tally/contracts';
import { assertMerchant, type Caller, type Handlers, merchantsFor } from '@tally/service';
import type { Freshness } from './fresh.ts';
import type { Read } from './read.ts';

export type Parts = { read: Read; freshness: Freshness };

/** analytics-api's procedures: each narrows the question to what the caller may see, and asks. */
export function createHandlers({ read, freshness }: Parts): Handlers<typeof analytics> {
  return {
    analytics: {
      summary: async ({ input, caller }) => read.summary(seenBy(caller, input)),
      breakdown: async ({ input, caller }) => read.breakdown(seenBy(caller, input)),
      async merchantUsage({ input, caller }) {
        assertMerchant(caller, input.merchantId);
        return read.merchantUsage(input);
      },
      refresh: async () => freshness.refresh(),
    },
  };
}

function seenBy<Q extends { merchantIds?: string[] | undefined }>(caller: Caller, question: Q): Q {
  return { ...question, merchantIds: merchantsFor(caller, question.merchantIds) };
}
