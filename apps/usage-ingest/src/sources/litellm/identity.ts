import { dayOf, HOUR_MS, midnightNear, parseQuantity } from '@tally/contracts';
import type { LitellmCall } from '@tally/db';
import { idOf } from '../naming.ts';
import type { Call } from './call.ts';

/** The event that a report of a call counts as. */
export type Claim = {
  entryId: string;
  /** The event's time in milliseconds: that of the first report. */
  at: number;
  /** True if the call was reported before. */
  isRepeat: boolean;
  /** The contradiction with an earlier report of the same call; undefined if both agree. */
  conflict: string | undefined;
};

/** Events of the `openmeter` callback have the time of sending, at most this long after the start. */
const LONGEST_CALL_MS = 2 * HOUR_MS;
/** Starts of one call differ by rounding, and by the clocks of LiteLLM's workers if a report passes several. */
const START_TOLERANCE_MS = 1_000;

/**
 * Decides which reports are of the same call. `known` has the records of earlier reports, by ids of these calls;
 * `notes` must be stored beside it. Two reports with the same response id are of one call: the model's provider chose
 * that id. The metered client can choose LiteLLM's own call id (`x-litellm-call-id`), so sharing it proves nothing if
 * both response ids are known and differ, or if the starts or the outcomes differ: such calls count separately.
 */
export function claim(
  calls: readonly Call[],
  known: readonly LitellmCall[],
): { claims: Claim[]; notes: LitellmCall[] } {
  const byAlias = new Map<string, LitellmCall[]>();
  const notes = new Map<string, LitellmCall>();
  const add = (row: LitellmCall) => {
    const key = keyOf(row.merchantId, row.alias);
    const rows = byAlias.get(key);
    if (rows) rows.push(row);
    else byAlias.set(key, [row]);
  };
  for (const row of known) add({ ...row });

  const claims = calls.map((call): Claim => {
    const { merchantId } = call.entry;
    const rows = call.ids.all.flatMap((alias) => byAlias.get(keyOf(merchantId, alias)) ?? []);
    const [same] = rows
      .filter((row) => isSame(call, row))
      .sort((a, b) => Math.abs(a.time - call.at) - Math.abs(b.time - call.at));
    const entry = same ?? newEntry(call, rows);
    for (const alias of call.ids.all) {
      const found = (byAlias.get(keyOf(merchantId, alias)) ?? []).find((row) => isOfEntry(row, entry));
      if (found && (found.responseId !== null || call.ids.response === undefined)) continue;
      const note = found ?? { ...entry, alias };
      note.responseId ??= call.ids.response ?? null;
      if (!found) add(note);
      notes.set(`${keyOf(merchantId, alias)}\n${dayOf(note.time)}\n${note.entryId}`, note);
    }
    return {
      entryId: entry.entryId,
      at: entry.time,
      isRepeat: same !== undefined,
      conflict: same && conflictOf(amountsOf(call), same),
    };
  });
  return { claims, notes: [...notes.values()] };
}

function newEntry(call: Call, rows: readonly LitellmCall[]): LitellmCall {
  const { entry, ids, at } = call;
  const [first] = ids.all as [string, ...string[]];
  const isTaken = rows.some((row) => row.entryId === first && isNear(row.time, at));
  return {
    merchantId: entry.merchantId,
    alias: first,
    entryId: isTaken ? idOf(`${first}@${at}`) : first,
    time: at,
    isSentTime: ids.isSentTime,
    responseId: ids.response ?? null,
    failed: entry.status === 'failure',
    ...amountsOf(call),
  };
}

function isSame(call: Call, row: LitellmCall): boolean {
  const { response, all } = call.ids;
  if (!isNear(call.at, row.time)) return false;
  if (row.responseId !== null && response !== undefined) return row.responseId === response;
  if (row.alias === response || (row.responseId !== null && all.includes(row.responseId))) return true;
  if (row.failed !== null && row.failed !== (call.entry.status === 'failure')) return false;
  const earliest = row.isSentTime ? row.time - LONGEST_CALL_MS : row.time;
  return call.at >= earliest - START_TOLERANCE_MS && call.at <= row.time + START_TOLERANCE_MS;
}

const isOfEntry = (row: LitellmCall, entry: LitellmCall): boolean =>
  row.entryId === entry.entryId && dayOf(row.time) === dayOf(entry.time);

type Amounts = Pick<LitellmCall, 'promptTokens' | 'completionTokens' | 'cost'>;

function amountsOf({ entry: { metrics } }: Call): Amounts {
  const units = (type: string) => (metrics[type] === undefined ? null : (parseQuantity(type, metrics[type]) ?? null));
  return { promptTokens: units('prompt_tokens'), completionTokens: units('completion_tokens'), cost: units('cost') };
}

const NAMES = { promptTokens: 'prompt tokens', completionTokens: 'completion tokens', cost: 'nano-USD' } as const;

/** Compares the fields in both reports; an absent field is no conflict. */
function conflictOf(reported: Amounts, first: Amounts): string | undefined {
  const differing = (Object.keys(NAMES) as (keyof Amounts)[]).filter(
    (name) => reported[name] !== null && first[name] !== null && reported[name] !== first[name],
  );
  if (differing.length === 0) return undefined;
  const parts = differing.map((name) => `${reported[name]} ${NAMES[name]} where ${first[name]} were reported first`);
  return `The call is counted already, and differs: ${parts.join(', ')}.`;
}

/** Ids may be used again on other days; around a midnight, two reports of one call can be of different days. */
function isNear(a: number, b: number): boolean {
  return dayOf(a) === dayOf(b) || (midnightNear(a) !== undefined && midnightNear(a) === midnightNear(b));
}

const keyOf = (merchantId: string, alias: string): string => `${merchantId}\n${alias}`;
