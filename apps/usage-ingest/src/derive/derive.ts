import type { Db } from '@tally/db';
import { type Log, type Loop, startLoop } from '@tally/service';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

export type DeriveOptions = {
  db: Pick<Db, 'derivations'>;
  register: Registry;
  /** Events of one slice, which is one transaction; larger slices merge better and hold their locks longer. */
  sliceEvents: number;
};

export type Derive = {
  /** Derives, slice by slice, what was counted before the call; what other processes have taken is left to them. */
  run(): Promise<void>;
  /** Derives until at most MAX_PENDING_SLICES slices wait, so that queries never add up more than that by themselves. */
  catchUp(): Promise<void>;
  /** Runs again and again, `intervalMs` apart. */
  start(intervalMs: number, log: Log): Loop;
};

/** Slices that may wait to be derived before the flush stops and derives, too. */
const MAX_PENDING_SLICES = 25;

/**
 * Adds flushes to the coarse rollups in the background: models, months, years, all merchants. Readers add what is still to
 * be derived themselves, so a lag makes queries slower, never wrong. Any number of processes may run it.
 */
export function createDerive({ db, register, sliceEvents }: DeriveOptions): Derive {
  const registers = [register];
  const lagSeconds = new Gauge({
    name: 'tally_derive_lag_seconds',
    help: 'Age of the oldest flush that is still to be added to the coarse rollups.',
    registers,
  });
  const pendingEvents = new Gauge({
    name: 'tally_derive_pending_events',
    help: 'Events that are still to be added to the coarse rollups. Queries read them one by one.',
    registers,
  });
  const derivedEvents = new Counter({
    name: 'tally_derive_events_total',
    help: 'Events that this process added to the coarse rollups.',
    registers,
  });
  const sliceSeconds = new Histogram({
    name: 'tally_derive_slice_seconds',
    help: 'Time to add one slice of events to the coarse rollups.',
    buckets: [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });

  async function look(): Promise<number> {
    const { events, oldestMs } = await db.derivations.lag();
    lagSeconds.set(oldestMs / 1000);
    pendingEvents.set(events);
    return events;
  }

  /** Derives at most so many events; what others have taken is left to them. */
  async function derive(events: number): Promise<void> {
    for (let left = events; left > 0; ) {
      const done = sliceSeconds.startTimer();
      const derived = await db.derivations.derive(sliceEvents);
      if (derived.flushes === 0) return;
      done();
      derivedEvents.inc(derived.events);
      left -= derived.events;
    }
  }

  async function run(): Promise<void> {
    // Flushes that come meanwhile wait for the next run, so a run ends whatever the load.
    await derive(await look());
    await look();
  }

  async function catchUp(): Promise<void> {
    const most = MAX_PENDING_SLICES * sliceEvents;
    const events = await look();
    if (events > most) await derive(events - most);
  }

  return {
    run,
    catchUp,
    start: (intervalMs, log) =>
      startLoop(intervalMs, run, (error) => log.error({ err: error }, 'derivation failed; it is tried again')),
  };
}
