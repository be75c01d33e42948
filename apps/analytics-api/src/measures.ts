import { formatCost, type Measures, percentOf } from '@tally/contracts';
import type { Sums } from '@tally/db';

/** Sums as they are answered: quantities, the derived total, the success rate. */
export function measuresOf(sums: Sums): Measures {
  return {
    requests: sums.requests.toString(),
    failedRequests: sums.failed_requests.toString(),
    promptTokens: sums.prompt_tokens.toString(),
    completionTokens: sums.completion_tokens.toString(),
    totalTokens: (sums.prompt_tokens + sums.completion_tokens).toString(),
    cost: formatCost(sums.cost),
    successRate: percentOf(sums.requests - sums.failed_requests, sums.requests),
  };
}

export const NOTHING: Sums = {
  requests: 0n,
  failed_requests: 0n,
  prompt_tokens: 0n,
  completion_tokens: 0n,
  cost: 0n,
};
