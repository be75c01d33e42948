import { countDays, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Log, type Loop, recordStep, startLoop } from '@tally/service';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import { flushKey } from '../flush/drain.ts';
import { createBacklog } from './backlog.ts';

export type DeriveOptions = {
  db: Pick<Db, 'derivations'>;
  register: Registry;
  /** Events per slice, which is one transaction; larger slices merge better and hold their locks longer. */
  sliceEvents: number;
  now: () => number;
  /** Returns the time that the clocks of this process and of Postgres have both reached: a wrong one ends no day early. */
  agreedNow: () => Promise<number>;
};

export type Derive = {
  /** Derives everything counted before the call, and builds the coarser rollups of days that are over. */
  run(): Promise<void>;
  /** Derives until at most MAX_PENDING_SLICES slices wait, so that queries never add up more than that by themselves. */
  catchUp(): Promise<void>;
  /** Runs repeatedly, `intervalMs` apart. */
  start(intervalMs: number, log: Log): Loop;
};

/** The number of waiting slices above which the flush stops and derives, too. */
const MAX_PENDING_SLICES = 8;

/** Slices of a day are smaller by this factor, since they block adjustments. */
const ROLL_UP_SHARE = 6;
/** Slices of quarters of a month that a run computes at most: after an upgrade there are many. */
const QUARTER_SLICES = 10;
/** A day is rolled up this long after its end, when most retries of late events have arrived; later ones cost more. */
const ROLL_UP_AFTER_MS = 3_600_000;

/**
 * Adds flushes to the coarse rollups of days in the background, and days to months and years once they are over.
 * Readers add what is missing themselves, so a lag makes queries slower, never wrong. Any number of processes may run
 * it.
 */
export function createDerive({ db, register, sliceEvents, now, agreedNow }: DeriveOptions): Derive {
  const registers = [register];
  const derivedEvents = new Counter({
    name: 'tally_derive_events_total',
    help: 'Events that this process added to the coarse rollups.',
    registers,
  });
  const openDays = new Gauge({
    name: 'tally_derive_open_days',
    help: 'Days that are over and not yet added to months and years. Queries read their rollups of days.',
    registers,
  });
  const sliceSeconds = new Histogram({
    name: 'tally_derive_slice_seconds',
    help: 'Time to add one slice of events, or of a day that is over, to the coarse rollups.',
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });

  const backlog = createBacklog({
    registers,
    names: { lag: 'tally_derive_lag_seconds', pending: 'tally_derive_pending_events', rollups: 'the coarse rollups' },
    maxPending: MAX_PENDING_SLICES * sliceEvents,
    async lag() {
      const lag = await db.derivations.lag();
      const first = over(now());
      openDays.set(lag.firstOpenDay < first ? countDays(lag.firstOpenDay, first) - 1 : 0);
      return lag;
    },
    async deriveSlice() {
      const done = sliceSeconds.startTimer();
      const startedAt = Date.now();
      const derived = await db.derivations.derive(sliceEvents);
      if (derived.flushes === 0) return derived;
      done();
      recordStep(() => ({
        ...{ name: 'tally.derive', key: `derive:${derived.ids[0]}`, startedAt },
        after: derived.ids.map(flushKey),
        attributes: { 'tally.events': derived.events, 'tally.flushes': derived.flushes },
      }));
      derivedEvents.inc(derived.events);
      return derived;
    },
  });

  /** The first day that must not be rolled up yet at a time. */
  const over = (at: number) => dayOf(at - ROLL_UP_AFTER_MS);
  const slice = Math.ceil(sliceEvents / ROLL_UP_SHARE);

  async function rollUp(before: Day): Promise<boolean> {
    const done = sliceSeconds.startTimer();
    const more = await db.derivations.rollUp(before, slice);
    if (more) done();
    return more;
  }

  async function run(): Promise<void> {
    const { flushes, events, firstOpenDay } = await backlog.look();
    // Later flushes wait for the next run, so a run ends under any load.
    await backlog.derive(events);
    const before = over(await agreedNow());
    const hasOpenDays = firstOpenDay < before;
    // A long day must not delay flushes.
    if (hasOpenDays) while (await rollUp(before)) await backlog.derive(sliceEvents);
    for (let left = QUARTER_SLICES; left > 0 && (await db.derivations.computeQuarters(slice)); left--)
      await backlog.derive(sliceEvents);
    if (flushes > 0 || hasOpenDays) await backlog.look();
  }

  return {
    run,
    catchUp: backlog.catchUp,
    start: (intervalMs, log) => startLoop(intervalMs, run, failureLog(log, 'derivation failed; it is tried again')),
  };
}
