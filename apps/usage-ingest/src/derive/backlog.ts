import { Gauge, type Registry } from 'prom-client';

/** Derives the flushes that wait to be added to some rollups, one slice and transaction at a time, and counts them. */
export function createBacklog<Lag extends { flushes: number; events: number; oldestMs: number }>(options: {
  registers: Registry[];
  /** The names of the metrics, and what their help calls the rollups. */
  names: { lag: string; pending: string; rollups: string };
  maxPending: number;
  lag(): Promise<Lag>;
  deriveSlice(): Promise<{ flushes: number; events: number }>;
}) {
  const { registers, names, maxPending } = options;
  const lagSeconds = new Gauge({
    name: names.lag,
    help: `Age of the oldest flush that is still to be added to ${names.rollups}.`,
    registers,
  });
  const pendingEvents = new Gauge({
    name: names.pending,
    help: `Events that are still to be added to ${names.rollups}. Queries read them one by one.`,
    registers,
  });

  /** Returns what waits, and shows it. */
  async function look(): Promise<Lag> {
    const lag = await options.lag();
    lagSeconds.set(lag.oldestMs / 1000);
    pendingEvents.set(lag.events);
    return lag;
  }

  /** Derives up to a number of events; skips what other processes have taken. */
  async function derive(events: number): Promise<void> {
    for (let left = events; left > 0; ) {
      const derived = await options.deriveSlice();
      if (derived.flushes === 0) return;
      left -= derived.events;
    }
  }

  /** Derives until at most `maxPending` events wait, so that queries never add up more than that by themselves. */
  async function catchUp(): Promise<void> {
    const { events } = await look();
    if (events > maxPending) await derive(events - maxPending);
  }

  return { look, derive, catchUp };
}
