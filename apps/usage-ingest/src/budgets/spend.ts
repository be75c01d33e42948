import { randomUUID } from 'node:crypto';
import type { Db, JournalLine } from '@tally/db';
import { type Loop, startLoop } from '@tally/service';
import { parseWindowId } from '../counters/record-call.ts';
import { placeOf } from '../line.ts';
import type { Ledger, Note, SlotAmount } from './ledger.ts';
import { amountOf, type BudgetRegistry, slotOf, storable } from './registry.ts';

/** The interval at which spend in Postgres is copied to Redis. */
const READ_MS = 1_000;
const LEASE_MS = 5_000;
/** A noted event that is in no store after this time will never arrive. */
const STALE_MS = 600_000;
const ATTEMPTS = 5;
/** A larger call would block other calls of Redis for more than some milliseconds. */
const NOTES_PER_CALL = 200;
const HOUR_MS = 3_600_000;

function eventOf({ identity, at, amounts }: Note) {
  const { merchantId, dates, id } = parseWindowId(identity);
  return { identity, at, amounts, merchantId, dates, id };
}

export type Spend = ReturnType<typeof createSpend>;

/**
 * Keeps the spend of budgets in Redis equal to Postgres plus pending events. An accepted event is noted in Redis; its
 * note goes in the same step in which the spend from Postgres includes it, so that it always counts once.
 */
export function createSpend(options: {
  ledger: Ledger;
  registry: Pick<BudgetRegistry, 'current' | 'refresh'>;
  store: Pick<Db['budgets'], 'snapshot'>;
  /** Flushes everything acknowledged before the call; returns true if nothing is left. */
  drain(): Promise<boolean>;
  now: () => number;
  onError(error: unknown): void;
}) {
  const { ledger, registry, store, now } = options;
  const name = randomUUID();
  let reading: Promise<void> | undefined;
  let cleanedAt = 0;

  /** Returns what an event adds to the budgets it counts in. */
  function amountsOf(line: JournalLine): SlotAmount[] {
    const list = registry.current();
    if (!list?.concerns(line.merchant_id)) return [];
    const usage = { merchantId: line.merchant_id, userId: line.user_id, apiKey: line.api_key, model: line.model };
    return list.matching(usage).flatMap((budget) => {
      const span = list.spanOf(budget.id, line.time);
      const amount = amountOf(line, budget);
      return span && amount !== 0n ? [{ slot: slotOf(budget.id, span.start), amount: amount.toString() }] : [];
    });
  }

  /** The identities by which the journal can look up an event. */
  const identityOf = (line: JournalLine) => `${line.merchant_id}\n${placeOf(line)} ${line.id}\n`;

  async function readOnce(): Promise<boolean> {
    const begun = await ledger.begin();
    const stale: Note[] = [];
    if (!begun.isWhole && !(await options.drain()))
      throw new Error('pending events could not be flushed, so spend is unknown');
    const { spends, counted } = await store.snapshot(new Date(now()), async () => {
      const notes = await ledger.notes();
      stale.push(...notes.filter(({ at }) => begun.now - at > STALE_MS));
      return notes.map(eventOf);
    });
    const spent = spends.map((each) => ({ slot: slotOf(each.budgetId, each.start), amount: storable(each) }));
    const gone = await neverCounted(stale, new Set(counted.map(({ identity }) => identity)));
    return ledger.set(begun, spent, [...counted, ...gone]);
  }

  /** Returns old notes whose event is neither in the journal nor pending: it was rejected, or lost by Redis. */
  async function neverCounted(stale: readonly Note[], counted: ReadonlySet<string>): Promise<Note[]> {
    const left = stale.filter(({ identity }) => !counted.has(identity));
    if (left.length === 0 || !(await options.drain())) return [];
    const { counted: found } = await store.snapshot(new Date(now()), async () => left.map(eventOf));
    // Events found now are part of the next reading.
    const here = new Set(found.map(({ identity }) => identity));
    return left.filter(({ identity }) => !here.has(identity));
  }

  /** Copies spend from Postgres to Redis; concurrent calls share one reading. */
  function read(): Promise<void> {
    reading ??= (async () => {
      for (let attempt = 1; !(await readOnce()); attempt++)
        if (attempt === ATTEMPTS) throw new Error('other processes kept reading the spend');
    })().finally(() => {
      reading = undefined;
    });
    return reading;
  }

  /** The same, with whatever is in Postgres when it is called: a reading under way may have begun before. */
  async function readAgain(): Promise<void> {
    await reading?.catch(() => {});
    await read();
  }

  async function tick(): Promise<void> {
    await ledger.settleLate();
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
    readAgain,
    /** Notes accepted events; resolves when they are, or cannot be. Never rejects. */
    async note(lines: readonly JournalLine[]): Promise<void> {
      const items = lines.flatMap((line) => {
        const amounts = amountsOf(line);
        return amounts.length === 0 ? [] : [{ event: { identity: identityOf(line), amounts } }];
      });
      // An event without a note counts once it is flushed.
      const calls: Promise<unknown>[] = [];
      for (let at = 0; at < items.length; at += NOTES_PER_CALL)
        calls.push(ledger.settle(items.slice(at, at + NOTES_PER_CALL)).ended.catch(options.onError));
      await Promise.all(calls);
    },
    start: (): Loop => startLoop(READ_MS, tick, options.onError),
  };
}
