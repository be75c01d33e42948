import { randomUUID } from 'node:crypto';
import type { Db, JournalLine } from '@tally/db';
import { type Loop, startLoop } from '@tally/service';
import { parseWindowId } from '../counters/record-call.ts';
import { placeOf } from '../line.ts';
import type { Ledger, SlotAmount } from './ledger.ts';
import { amountOf, type BudgetRegistry, slotOf, storable } from './registry.ts';

/** How often what Postgres shows as spent is brought to Redis. */
const READ_MS = 1_000;
const LEASE_MS = 5_000;
/** An event that is noted for so long and is in no store will never come. */
const STALE_MS = 600_000;
const ATTEMPTS = 5;
/** More would hold up other calls of Redis for longer than some milliseconds. */
const NOTES_PER_CALL = 200;
const HOUR_MS = 3_600_000;

export type Spend = ReturnType<typeof createSpend>;

/**
 * Keeps what is spent of budgets in Redis equal to Postgres and what waits. An event is noted in Redis when it is accepted, and its
 * note goes in the step in which what Postgres shows includes it, so that it counts at all times, once.
 */
export function createSpend(options: {
  ledger: Ledger;
  registry: Pick<BudgetRegistry, 'current' | 'refresh'>;
  store: Pick<Db['budgets'], 'snapshot'>;
  /** Flushes everything that was acknowledged before the call; returns whether that was all. */
  drain(): Promise<boolean>;
  now: () => number;
  onError(error: unknown): void;
}) {
  const { ledger, registry, store, now } = options;
  const name = randomUUID();
  let reading: Promise<void> | undefined;
  let cleanedAt = 0;

  /** What an event adds to the budgets it counts in. */
  function amountsOf(line: JournalLine): SlotAmount[] {
    const list = registry.current();
    if (!list?.concerns(line.merchant_id)) return [];
    const usage = { merchantId: line.merchant_id, userId: line.user_id, apiKey: line.api_key, model: line.model };
    return list.matching(usage).flatMap((budget) => {
      const span = list.spanOf(budget.id, line.time);
      const amount = amountOf(line, budget.measure);
      return span && amount !== 0n ? [{ slot: slotOf(budget.id, span.start), amount: amount.toString() }] : [];
    });
  }

  /** How the journal can be asked for an event. */
  const identityOf = (line: JournalLine) => `${line.merchant_id}\n${placeOf(line)} ${line.id}\n`;

  async function readOnce(): Promise<boolean> {
    const begun = await ledger.begin();
    const stale: string[] = [];
    if (!begun.isWhole && !(await options.drain()))
      throw new Error('what waits could not be flushed, so spend is not known');
    const { periods, counted } = await store.snapshot(new Date(now()), async () => {
      const notes = await ledger.notes();
      for (const { identity, at } of notes) if (begun.now - at > STALE_MS) stale.push(identity);
      return notes.map(({ identity }) => ({ identity, ...parseWindowId(identity) }));
    });
    const spent = periods.map((period) => ({ slot: slotOf(period.budgetId, period.start), amount: storable(period) }));
    const gone = await neverCounted(stale, new Set(counted.map(({ identity }) => identity)));
    return ledger.set(begun, spent, counted.map(({ identity }) => identity).concat(gone));
  }

  /** Of old notes those whose event is neither in the journal nor waits: it was rejected, or lost by Redis. */
  async function neverCounted(stale: readonly string[], counted: ReadonlySet<string>): Promise<string[]> {
    const left = stale.filter((identity) => !counted.has(identity));
    if (left.length === 0 || !(await options.drain())) return [];
    const events = left.map((identity) => ({ identity, ...parseWindowId(identity) }));
    const { counted: found } = await store.snapshot(new Date(now()), async () => events);
    // What is found now is part of the next reading.
    return left.filter((identity) => !found.some((event) => event.identity === identity));
  }

  /** Brings what Postgres shows to Redis; calls at the same time share one reading. */
  function read(): Promise<void> {
    reading ??= (async () => {
      for (let attempt = 1; !(await readOnce()); attempt++)
        if (attempt === ATTEMPTS) throw new Error('others kept reading what was spent');
    })().finally(() => {
      reading = undefined;
    });
    return reading;
  }

  async function tick(): Promise<void> {
    await registry.refresh();
    const list = registry.current();
    if (!list || list.budgets.length === 0) return;
    if (!(await ledger.lead(name, LEASE_MS))) return;
    await read();
    if (performance.now() - cleanedAt < HOUR_MS && cleanedAt !== 0) return;
    await ledger.forget(list.has);
    cleanedAt = performance.now();
  }

  return {
    amountsOf,
    identityOf,
    read,
    /** Notes events that were accepted; never throws, and nobody waits for it. */
    note(lines: readonly JournalLine[]): void {
      const items = lines.flatMap((line) => {
        const amounts = amountsOf(line);
        return amounts.length === 0 ? [] : [{ event: { identity: identityOf(line), amounts } }];
      });
      // What is not noted counts when it is flushed.
      for (let at = 0; at < items.length; at += NOTES_PER_CALL)
        ledger.settle(items.slice(at, at + NOTES_PER_CALL)).ended.catch(options.onError);
    },
    start: (): Loop => startLoop(READ_MS, tick, options.onError),
  };
}
