import { setTimeout as wait } from 'node:timers/promises';
import { ERRORS, type ErrorCode, TallyError } from '@tally/contracts';
import { type AnalyticsClient, createAnalyticsClient } from '@tally/contracts/client';
import { fetchWithin, secretOf } from '@tally/service';
import { TRPCClientError } from '@trpc/client';
import type { SourceRequest } from './source.ts';

/**
 * Calls analytics-api with the key of the request, so that its access, merchant and limits apply there. Throws errors
 * of analytics-api unchanged, and UNAVAILABLE if it does not answer.
 */
export type AskAnalytics = <T>(request: SourceRequest, query: (client: AnalyticsClient) => Promise<T>) => Promise<T>;

/** Longer than the longest query of analytics-api. */
const TIMEOUT_MS = 30_000;

/** Creates the function that calls the analytics-api at `url`. */
export function createAskAnalytics(url: string): AskAnalytics {
  const fetch = fetchWithin(TIMEOUT_MS);
  return async ({ headers }, query) => {
    const key = secretOf(headers.get('authorization') ?? undefined, headers.get('x-api-key') ?? undefined, true);
    if (key === undefined) throw new TallyError('UNAUTHORIZED', 'Send an API key; a session is not enough here.');
    try {
      return await query(createAnalyticsClient({ url, key, fetch }));
    } catch (error) {
      throw understood(error);
    }
  };
}

type MeterQuery = Parameters<AnalyticsClient['analytics']['meter']['query']>[0];

/** The history of a meter that was just created mostly takes a second or two. */
const PATIENCE_MS = 5_000;
const LOOK_EVERY_MS = 250;

/**
 * Returns the rows of a meter. Throws UNAVAILABLE if, after five seconds, they still lack events that wait to be flushed
 * or history that is computed: no other product's format can say so, and a sum that is too low would be billed.
 */
export async function meterRows(ask: AskAnalytics, request: SourceRequest, query: MeterQuery) {
  for (const end = performance.now() + PATIENCE_MS; ; await wait(LOOK_EVERY_MS)) {
    const { rows, coverage } = await ask(request, (client) => client.analytics.meter.query(query));
    if (coverage.complete) return rows;
    if (performance.now() > end)
      throw new TallyError(
        'UNAVAILABLE',
        'Not all events are in these sums: some wait to be flushed, or the history of the meter is still computed.',
      );
  }
}

function understood(error: unknown): unknown {
  if (!(error instanceof TRPCClientError)) return error;
  const { code, details } = (error.data ?? {}) as { code?: string; details?: unknown };
  if (code !== undefined && Object.hasOwn(ERRORS, code))
    return new TallyError(code as ErrorCode, error.message, { details, cause: error });
  return new TallyError('UNAVAILABLE', 'analytics-api does not answer; send the query again.', { cause: error });
}
