import { addDays, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, type Log, type Loop, startLoop } from '@tally/service';
import { Gauge, type Registry } from 'prom-client';

export type DeriveMeters = {
  /** Derives everything counted before the call, computes histories, and folds quarter hours into days and months. */
  run(): Promise<void>;
  /**
   * Derives until at most MAX_PENDING_SLICES slices wait, so that queries never add up more than that by themselves.
   */
  catchUp(): Promise<void>;
  /** Runs repeatedly, `intervalMs` apart. */
  start(intervalMs: number, log: Log): Loop;
};

/** The number of waiting slices above which the flush stops and derives, too. */
const MAX_PENDING_SLICES = 25;
/** Larger slices merge better: ten meters cost several times as many rows as the rollups of the measures. */
const SLICE_FACTOR = 2;
const HISTORY_EVENTS = 50_000;
/** A day is folded after this long without writes, since each late event makes it dirty again. */
const QUIET_MS = 10_000;
const FOLDED_AT_ONCE = 200;

/** Adds flushes to the rollups of meters in the background. Readers add what is not derived yet themselves. */
export function createDeriveMeters(options: {
  db: Pick<Db, 'meters'>;
  register: Registry;
  sliceEvents: number;
  /** Days for which quarter hours are kept. */
  quarterHoursDays: number;
  /** Returns the time that the clocks of this process and of Postgres have both reached. */
  agreedNow: () => Promise<number>;
}): DeriveMeters {
  const { db, register, quarterHoursDays, agreedNow } = options;
  const slice = options.sliceEvents * SLICE_FACTOR;
  const registers = [register];
  const lagSeconds = new Gauge({
    name: 'tally_meters_lag_seconds',
    help: 'Age of the oldest flush that is still to be added to the rollups of meters.',
    registers,
  });
  const pendingEvents = new Gauge({
    name: 'tally_meters_pending_events',
    help: 'Events that are still to be added to the rollups of meters. Queries read them one by one.',
    registers,
  });
  let prunedOn: Day | undefined;

  async function look(): Promise<number> {
    const { events, oldestMs } = await db.meters.lag();
    lagSeconds.set(oldestMs / 1000);
    pendingEvents.set(events);
    return events;
  }

  async function derive(events: number): Promise<void> {
    for (let left = events; left >= 0; ) {
      const derived = await db.meters.derive(slice);
      if (derived.flushes === 0) return;
      left -= derived.events;
    }
  }

  async function run(): Promise<void> {
    // Later flushes wait for the next run, so a run ends under any load.
    await derive(await look());
    while (await db.meters.computeHistory(HISTORY_EVENTS)) await derive(slice);
    const today = dayOf(await agreedNow());
    while ((await db.meters.fold(today, QUIET_MS, FOLDED_AT_ONCE)) >= FOLDED_AT_ONCE);
    if (prunedOn !== today) {
      await db.meters.prune(addDays(today, -quarterHoursDays));
      prunedOn = today;
    }
    await look();
  }

  return {
    run,
    async catchUp() {
      const most = MAX_PENDING_SLICES * slice;
      const events = await look();
      if (events > most) await derive(events - most);
    },
    start: (intervalMs, log) =>
      startLoop(intervalMs, run, failureLog(log, 'meters were not derived; it is tried again')),
  };
}
