import { isTallyError, LITELLM_PATHS, type LitellmReceipt, TallyError } from '@tally/contracts';
import type { Caller } from '@tally/service';
import { type BodyItem, readItems } from '../items.ts';
import { refusalOf } from '../pipeline.ts';
import { problemDetails } from '../problem-details.ts';
import type { EventsRoute, Outcome, Source } from '../source.ts';
import { type Call, fromEvent, fromPayload, type Rules } from './call.ts';
import type { Recorder, Report } from './record.ts';

/** The limit of array elements and object members of all items: a call has some hundred. */
const MAX_JSON_ITEMS = 200_000;

/**
 * Returns the receivers of LiteLLM's callbacks. An answer below 300 means that every item was stored or is among the
 * rejected. LiteLLM never retries, so items with another answer must be pulled.
 */
export function receivers({
  recorder,
  rules,
  maxBodyBytes,
}: {
  recorder: Pick<Recorder, 'itemsOf'>;
  rules: Rules;
  maxBodyBytes: number;
}): Source[] {
  const itemsOf = (read: (value: unknown) => Call, given: readonly BodyItem[], caller: Caller) =>
    recorder.itemsOf(given.map((item) => reportOf(item, read, caller)));

  const limits = { maxBodyBytes, maxItems: MAX_JSON_ITEMS };
  const logs: EventsRoute = {
    ...limits,
    path: LITELLM_PATHS.logs,
    read: async ({ body, caller }) => itemsOf((value) => fromPayload(value, rules), await readItems(body), caller),
    answer: (outcome) => Response.json(receiptOf(outcome)),
  };
  const events: EventsRoute = {
    ...limits,
    path: LITELLM_PATHS.events,
    async read({ body, caller, now }) {
      const given = await readItems(body);
      if (given.length === 0) throw new TallyError('INVALID_INPUT', 'There are no events in the body.');
      return itemsOf((value) => fromEvent(value, rules, now), given, caller);
    },
    answer(outcome) {
      const [first] = outcome.rejected;
      if (!first) return new Response(null, { status: 204 });
      if (outcome.results.length === 1) throw refusalOf(first);
      return Response.json(receiptOf(outcome));
    },
  };
  return [
    { name: 'litellm.logs', comparesReports: true, events: [logs] },
    { name: 'litellm.events', comparesReports: true, events: [events], errorBody: problemDetails },
  ];
}

const receiptOf = ({ accepted, duplicates, skipped, rejected }: Outcome): LitellmReceipt => ({
  accepted,
  duplicates,
  empty: skipped,
  rejected,
});

/**
 * Reads an item as a call. An item that is no call, or of a merchant that the caller may not name, must not claim an
 * id.
 */
function reportOf(item: BodyItem, read: (value: unknown) => Call, { merchantId }: Caller): Report {
  if ('error' in item) return { refused: item.error };
  const { value } = item;
  // LiteLLM sends `null` for a missing payload.
  if (value === null) return 'skipped';
  const sentId = (value as { id?: unknown }).id;
  const id = typeof sentId === 'string' ? sentId : null;
  try {
    const call = read(value);
    if (merchantId === null || call.entry.merchantId === merchantId) return call;
    const message = `The call belongs to merchant ${call.entry.merchantId}, this key to ${merchantId}.`;
    return { refused: { code: 'MERCHANT_FORBIDDEN', message }, id };
  } catch (error) {
    if (isTallyError(error)) return { refused: error, id };
    throw error;
  }
}
