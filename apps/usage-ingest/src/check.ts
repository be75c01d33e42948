import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  addDays,
  type CheckedEntry,
  type Day,
  dayOf,
  type ErrorCode,
  MINUTE_MS,
  parseTime,
  RESERVED_METRICS,
  type Rejection,
  TallyError,
  UsageEntry,
} from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import { problemsOf } from '@tally/service';
import { contentOf, lineOf, placeOf } from './line.ts';
import { metricProblem, propertyProblem } from './meters/amounts.ts';
import type { Registry } from './meters/registry.ts';
import { isPlainEntry } from './plain-entry.ts';

/** A valid event, with its index in the batch; contested: the batch has its id with other content, too. */
export type CheckedLine = { index: number; line: JournalLine; isContested?: true };

export type BatchToCheck = {
  entries: readonly unknown[];
  /** Accepts events older than the retention. */
  backfill: boolean;
  /** The caller has compared reports with one id itself: a repeat may differ. */
  isCompared?: boolean;
  /** The only merchant that the caller may name; null: any. */
  boundTo: string | null;
};

export type Clock = { now: number; retentionDays: number; registry: Registry };

/** After this time, checking yields to other work. */
const SLICE_MS = 10;
/** Naming every unknown field of a larger object would take long. */
const MAX_FIELDS = 100;
/** For larger batches, parsing, checking and storing each get a turn of the event loop. */
const LARGE = 200;

/** How far a producer's clock may be ahead. */
export const MAX_AHEAD_MS = 10 * MINUTE_MS;

export type CheckedBatch = {
  lines: CheckedLine[];
  rejected: Rejection[];
  /** Rejections decided by the registry of meters. */
  byRegistry: number[];
  /** Exact repeats of an earlier event of the batch: they share its outcome. */
  repeats: { index: number; of: number }[];
};

/**
 * Checks every event by itself; of exact repeats within the batch, the first one stays. Which one of several contents
 * has their id is for the store to say. Throws MERCHANT_FORBIDDEN if all events are about merchants that the caller may
 * not name.
 */
export async function checkBatch(batch: BatchToCheck, clock: Clock): Promise<CheckedBatch> {
  const lines: CheckedLine[] = [];
  const firsts = new Map<string, CheckedLine>();
  /** The lines of ids that repeat, by their contents. */
  const copies = new Map<string, CheckedLine>();
  const rejected: Rejection[] = [];
  const repeats: CheckedBatch['repeats'] = [];
  const byRegistry: number[] = [];
  const { now, registry } = clock;
  const bounds = { oldest: addDays(dayOf(now), -clock.retentionDays), now, registry };
  const isLarge = batch.entries.length > LARGE;
  if (isLarge) await nextTurn();
  let since = performance.now();
  for (const [index, value] of batch.entries.entries()) {
    // Describing what is wrong with an event can take 0.1 ms, which blocks the event loop.
    if (performance.now() - since > SLICE_MS) {
      await nextTurn();
      since = performance.now();
    }
    const checked = checkEntry(value, batch, bounds);
    if ('code' in checked) {
      const { code, message, isOfRegistry } = checked;
      rejected.push({ index, id: idOf(value), code, message });
      if (isOfRegistry) byRegistry.push(index);
      continue;
    }
    const { line } = checked;
    if (batch.isCompared) line.compared = true;
    const identity = `${line.merchant_id}\n${placeOf(line)} ${line.id}`;
    const first = firsts.get(identity);
    if (first) copies.set(identity + contentOf(first.line), first);
    const same = first && (line.compared ? first : copies.get(identity + contentOf(line)));
    if (same) {
      repeats.push({ index, of: same.index });
      continue;
    }
    const checkedLine: CheckedLine = { index, line };
    lines.push(checkedLine);
    if (first) {
      first.isContested = checkedLine.isContested = true;
      copies.set(identity + contentOf(line), checkedLine);
    } else firsts.set(identity, checkedLine);
  }
  if (isLarge) await nextTurn();
  if (rejected.length === batch.entries.length && rejected.every(({ code }) => code === 'MERCHANT_FORBIDDEN')) {
    throw new TallyError('MERCHANT_FORBIDDEN', rejected[0]!.message, { details: { rejected } });
  }
  return { lines, rejected, byRegistry, repeats };
}

/** The error of an event whose id belongs to another one. */
export const CONFLICT = {
  code: 'ID_CONFLICT',
  message: 'An event with this id is counted already, and differs.',
} as const satisfies Refusal;

type Refusal = { code: ErrorCode; message: string; isOfRegistry?: true };

function checkEntry(
  value: unknown,
  batch: BatchToCheck,
  { oldest, now, registry }: { oldest: Day; now: number; registry: Registry },
): { line: JournalLine } | Refusal {
  const entry = isPlainEntry(value) ? value : parseEntry(value);
  if ('code' in entry) return entry;
  if (batch.boundTo !== null && entry.merchantId !== batch.boundTo) {
    return { code: 'MERCHANT_FORBIDDEN', message: `This key is bound to merchant ${batch.boundTo}.` };
  }
  const time = entry.time === undefined ? now : parseTime(entry.time)!;
  if (time > now + MAX_AHEAD_MS) return { code: 'TIME_IN_FUTURE', message: tooFarAhead(time, now) };
  if (dayOf(time) < oldest && !batch.backfill) {
    return { code: 'TIME_TOO_OLD', message: `time is before ${oldest}; an admin may send it with backfill: true.` };
  }
  const problem = metricProblem(entry.metrics, registry) ?? propertyProblem(entry, registry);
  if (problem) return { code: 'INVALID_ENTRY', message: problem, isOfRegistry: true };
  return { line: lineOf(entry, time, registry.scaleOf) };
}

/** Names both clocks: either may be wrong. */
export function tooFarAhead(time: number, now: number): string {
  const seconds = Math.round((time - now) / 1000);
  return `time is ${seconds} s ahead of the clock of this service (${new Date(now).toISOString()}); at most ${MAX_AHEAD_MS / 1000} s.`;
}

function parseEntry(value: unknown): CheckedEntry | Refusal {
  const { metrics } = (value ?? {}) as { metrics?: unknown };
  for (const [name, object] of Object.entries({ entry: value, metrics })) {
    if (typeof object !== 'object' || object === null) continue;
    const fields = Object.keys(object).length;
    if (fields <= MAX_FIELDS) continue;
    return { code: 'INVALID_ENTRY', message: `${name}: it has ${fields} fields, more than ${MAX_FIELDS}.` };
  }
  const reserved = reservedMetric(value);
  if (reserved) return { code: 'RESERVED_METRIC', message: `metrics.${reserved} is derived by Tally; leave it out.` };
  const parsed = UsageEntry.safeParse(value);
  if (parsed.success) return parsed.data;
  return { code: 'INVALID_ENTRY', message: problemsOf(parsed.error, 'entry').message };
}

function idOf(value: unknown): string | null {
  const id = (value as { id?: unknown } | null)?.id;
  return typeof id === 'string' ? id.slice(0, 128) : null;
}

function reservedMetric(value: unknown): string | undefined {
  const metrics = (value as { metrics?: unknown } | null)?.metrics;
  if (typeof metrics !== 'object' || metrics === null) return undefined;
  return RESERVED_METRICS.find((type) => Object.hasOwn(metrics, type));
}
