import { addDays, type Day, dayOf } from '@tally/contracts';
import type { Db } from '@tally/db';
import { failureLog, startLoop } from '@tally/service';
import type { Registry } from 'prom-client';
import { createBacklog } from '../derive/backlog.ts';
import type { Derive } from '../derive/derive.ts';

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
}): Derive {
  const { db, register, quarterHoursDays, agreedNow } = options;
  const slice = options.sliceEvents * SLICE_FACTOR;
  const backlog = createBacklog({
    registers: [register],
    names: {
      lag: 'tally_meters_lag_seconds',
      pending: 'tally_meters_pending_events',
      rollups: 'the rollups of meters',
    },
    maxPending: MAX_PENDING_SLICES * slice,
    lag: db.meters.lag,
    deriveSlice: () => db.meters.derive(slice),
  });
  let prunedOn: Day | undefined;

  async function run(): Promise<void> {
    const { flushes, events } = await backlog.look();
    // Later flushes wait for the next run, so a run ends under any load. One more finds flushes without events.
    if (flushes > 0) await backlog.derive(events + 1);
    while (await db.meters.computeHistory(HISTORY_EVENTS)) await backlog.derive(slice);
    const today = dayOf(await agreedNow());
    while ((await db.meters.fold(today, QUIET_MS, FOLDED_AT_ONCE)) >= FOLDED_AT_ONCE);
    if (prunedOn !== today) {
      await db.meters.prune(addDays(today, -quarterHoursDays));
      prunedOn = today;
    }
    if (flushes > 0) await backlog.look();
  }

  return {
    run,
    catchUp: backlog.catchUp,
    start: (intervalMs, log) =>
      startLoop(intervalMs, run, failureLog(log, 'meters were not derived; it is tried again')),
  };
}
