import { ERRORS, isTallyError, LITELLM_PATHS, type LitellmReceipt, type Rejection, TallyError } from '@tally/contracts';
import type { Caller, Route } from '@tally/service';
import { type Call, fromEvent, fromPayload, type Rules } from './call.ts';
import { type Item, readItems } from './items.ts';
import type { LitellmMetrics, Way } from './metrics.ts';
import type { Recorder } from './record.ts';

/** Array elements and object members of all items together: a call has some hundred. */
const MAX_JSON_ITEMS = 200_000;

/**
 * Returns the receivers of LiteLLM's callbacks. An answer below 300 means that every item was stored or is among the
 * rejected. LiteLLM never retries, so what gets another answer must be pulled.
 */
export function receiverRoutes({
  recorder,
  rules,
  metrics,
  now,
  maxBodyBytes,
}: {
  recorder: Recorder;
  rules: Rules;
  metrics: LitellmMetrics;
  now: () => number;
  maxBodyBytes: number;
}): Route[] {
  const receiver = {
    method: 'POST',
    access: 'record',
    source: true,
    anyType: true,
    maxBodyBytes,
    maxItems: MAX_JSON_ITEMS,
  } as const;

  async function receive(
    way: Exclude<Way, 'daily' | 'pull'>,
    items: readonly Item[],
    read: (value: unknown) => Call,
    caller: Caller,
  ) {
    const calls: { index: number; call: Call }[] = [];
    const rejected: Rejection[] = [];
    let empty = 0;
    for (const [index, item] of items.entries()) {
      const taken = 'error' in item ? item : take(item.value, read, caller);
      if (taken === undefined) empty++;
      else if ('error' in taken) rejected.push(rejectionOf(index, item, taken.error));
      else calls.push({ index, call: taken.call });
    }
    metrics.unreadable(way, rejected.length);
    if (rejected.length > 0 && rejected.every(({ code }) => code === 'MERCHANT_FORBIDDEN') && calls.length === 0)
      throw new TallyError('MERCHANT_FORBIDDEN', rejected[0]!.message, { details: { rejected } });
    const result = await recorder.record(
      calls.map(({ call }) => call),
      { way, backfill: false },
    );
    for (const each of result.rejected) rejected.push({ ...each, index: calls[each.index]!.index });
    rejected.sort((a, b) => a.index - b.index);
    return { accepted: result.accepted, duplicates: result.duplicates, empty, rejected } satisfies LitellmReceipt;
  }

  return [
    {
      ...receiver,
      path: LITELLM_PATHS.logs,
      async answer(c, { caller, body }) {
        return c.json(
          await receive('generic_api', await readItems(body), (value) => fromPayload(value, rules), caller),
        );
      },
    },
    {
      ...receiver,
      path: LITELLM_PATHS.events,
      errorBody: problemDetails,
      async answer(c, { caller, body }) {
        const items = await readItems(body);
        if (items.length === 0) throw new TallyError('INVALID_INPUT', 'invalid event: no events found');
        const receipt = await receive('openmeter', items, (value) => fromEvent(value, rules, now()), caller);
        const [first] = receipt.rejected;
        if (!first) return c.body(null, 204);
        if (items.length === 1) throw new TallyError('INVALID_INPUT', `invalid event: ${first.message}`);
        return c.json(receipt);
      },
    },
  ];
}

/** Returns undefined for `null`, which LiteLLM sends where it has no payload. */
function take(
  value: unknown,
  read: (value: unknown) => Call,
  caller: Caller,
): { call: Call } | { error: TallyError } | undefined {
  if (value === null) return undefined;
  try {
    const call = read(value);
    if (caller.merchantId === null || call.entry.merchantId === caller.merchantId) return { call };
    const message = `The call belongs to merchant ${call.entry.merchantId}, this key to ${caller.merchantId}.`;
    return { error: new TallyError('MERCHANT_FORBIDDEN', message) };
  } catch (error) {
    if (isTallyError(error)) return { error };
    throw error;
  }
}

function rejectionOf(index: number, item: Item, { code, message }: TallyError): Rejection {
  const id = 'value' in item ? (item.value as { id?: unknown } | null)?.id : undefined;
  return { index, id: typeof id === 'string' ? id.slice(0, 128) : null, code, message };
}

/** Returns an error as problem details, which senders of CloudEvents read, with our error code added. */
function problemDetails({ code, message }: TallyError) {
  const { status, action } = ERRORS[code];
  const body = { type: 'about:blank', title: code, status, detail: message, code, action };
  return { type: 'application/problem+json', body };
}
