import { addDays, dayOf, type StoredEntry, TallyError } from '@tally/contracts';
import type { AskAnalytics } from './ask.ts';
import type { SourceRequest } from './source.ts';

/** Events that are looked at of one merchant. */
const MAX_EVENTS = 1_000;
/** Merchants that are looked at where a request names none. */
const MAX_MERCHANTS = 20;
/** Days that merchants are looked for in. */
const RECENT_DAYS = 30;

/** Returns the first moment of the days in which merchants are looked for. */
export const startOfRecent = (now: number) => Date.parse(addDays(dayOf(now), -RECENT_DAYS));

/**
 * Returns the newest 1,000 events of a merchant, newest first: of the given one, else that of the key, else of up to 20
 * merchants that had usage in the last 30 days. Throws INVALID_INPUT where there are more.
 */
export async function newestEvents(
  request: SourceRequest,
  ask: AskAnalytics,
  merchantId: string | null,
): Promise<StoredEntry[]> {
  const one = merchantId ?? request.caller.merchantId;
  const merchants = one === null ? await recentMerchants(request, ask) : [one];
  if (merchants.length > MAX_MERCHANTS)
    throw new TallyError(
      'INVALID_INPUT',
      `Name a customer: there are ${merchants.length}; at most ${MAX_MERCHANTS} are listed together.`,
    );
  const answers = await Promise.all(
    merchants.map((each) => request.call('usage.recent', { merchantId: each, limit: MAX_EVENTS })),
  );
  return answers
    .flatMap((answer) => (answer as { rows: StoredEntry[] }).rows)
    .sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0));
}

async function recentMerchants(request: SourceRequest, ask: AskAnalytics): Promise<string[]> {
  const today = dayOf(request.now);
  const range = { startDate: addDays(today, -RECENT_DAYS), endDate: today };
  const { merchants } = await ask(request, (client) => client.analytics.filterOptions.query(range));
  return merchants.map(({ id }) => id);
}
