import { type Coverage, formatCost, MEASURES, type Measures, percentOf } from '@tally/contracts';
import type { Sums } from '@tally/db';

/** Presents sums: quantities, the derived total, the success rate. */
export function measuresOf(sums: Sums): Measures {
  // The rate covers the requests whose outcome is known. Corrections may leave sums that are no part of a whole.
  const told = sums.requests - (sums.untold_requests ?? 0n);
  const isPart = sums.failed_requests >= 0n && sums.failed_requests <= told;
  return {
    requests: sums.requests.toString(),
    failedRequests: sums.failed_requests.toString(),
    promptTokens: sums.prompt_tokens.toString(),
    completionTokens: sums.completion_tokens.toString(),
    totalTokens: tokensOf(sums).toString(),
    cost: formatCost(sums.cost),
    successRate: isPart ? percentOf(told - sums.failed_requests, told) : null,
  };
}

export const tokensOf = (sums: Sums): bigint => sums.prompt_tokens + sums.completion_tokens + (sums.other_tokens ?? 0n);

export const add = (left: Sums, right: Sums): Sums => ({
  requests: left.requests + right.requests,
  failed_requests: left.failed_requests + right.failed_requests,
  prompt_tokens: left.prompt_tokens + right.prompt_tokens,
  completion_tokens: left.completion_tokens + right.completion_tokens,
  cost: left.cost + right.cost,
  other_tokens: (left.other_tokens ?? 0n) + (right.other_tokens ?? 0n),
  untold_requests: (left.untold_requests ?? 0n) + (right.untold_requests ?? 0n),
});

/** Measures missing from sums that include imported days. */
export function unknownOf({ other_tokens, untold_requests }: Sums): NonNullable<Coverage['unknown']> {
  return [
    ...(untold_requests ? ['failedRequests' as const] : []),
    ...(other_tokens ? (['promptTokens', 'completionTokens'] as const) : []),
  ];
}

export const NOTHING = Object.fromEntries(MEASURES.map((name) => [name, 0n])) as Sums;

/** Sums as decimal texts, for JSON. */
export const textsOf = (sums: Sums): Record<string, string> =>
  Object.fromEntries(
    Object.entries(sums).flatMap(([name, units]) => (units === undefined ? [] : [[name, `${units}`]])),
  );

/** The sums of `textsOf`. */
export const ofTexts = (texts: Record<string, string>): Sums =>
  Object.fromEntries(Object.entries(texts).map(([name, units]) => [name, BigInt(units)])) as Sums;
