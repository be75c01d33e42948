import { randomUUID } from 'node:crypto';
import {
  addDays,
  type Day,
  dayOf,
  type ErrorCode,
  formatQuantity,
  MAX_ENTRY_UNITS,
  parseQuantity,
  parseTime,
  RESERVED_METRICS,
  type ScaleOf,
  TallyError,
} from '@tally/contracts';
import type { JournalLine } from '@tally/db';
import type { Accept } from './accept.ts';
import { MAX_AHEAD_MS, tooFarAhead } from './check.ts';
import { LIVE_DAYS } from './counters/keys.ts';
import { addMetrics } from './line.ts';
import type { RegistryReader } from './meters/registry.ts';
import type { RunningTotals } from './running-totals.ts';

export type TrackOptions = {
  accept: Accept;
  registry: RegistryReader;
  totals: RunningTotals;
  /** How long calls are gathered into one event. */
  mergeMs: number;
  now: () => number;
};

export type TrackCall = {
  merchantId: string;
  metricType: string;
  by?: string | number | undefined;
  time?: string | undefined;
  id?: string | undefined;
};

export type Track = {
  /** Adds to a plain counter and returns its total of the day, once the call is stored. */
  track(call: TrackCall): Promise<{ total: string }>;
};

type Waiting = {
  line: JournalLine;
  units: bigint;
  calls: bigint;
  done: Promise<string>;
  settle(result: Promise<string>): void;
};

/** Plain counters: the calls of a few milliseconds become one event, and are acknowledged when that is stored. */
export function createTrack({ accept, registry, totals, mergeMs, now }: TrackOptions): Track {
  const open = new Map<string, Waiting>();

  /** Stores a line with an amount; the units of an amount are those of the current registry. */
  async function storeLine(line: JournalLine, metricType: string, amount: string): Promise<string> {
    const { rejected } = await accept.store('usage.track', ({ scaleOf }) => {
      const own = { ...line };
      addMetrics(own, { [metricType]: amount }, scaleOf);
      return [{ index: 0, line: own }];
    });
    if (rejected[0]) throw new TallyError(rejected[0].code as ErrorCode, rejected[0].message);
    return totalOf(line.merchant_id, line.date, metricType);
  }

  async function totalOf(merchantId: string, date: Day, metricType: string): Promise<string> {
    const known = await totals(merchantId, date, [metricType]);
    const scaleOf = await registry.scales([metricType]);
    return formatQuantity(metricType, known.totals.get(metricType) ?? 0n, scaleOf);
  }

  function merged(line: JournalLine, metricType: string, units: bigint, scaleOf: ScaleOf): Promise<string> {
    const key = `${line.merchant_id}\n${line.date} ${metricType} ${scaleOf(metricType)}`;
    const waiting = open.get(key);
    if (waiting && waiting.units + units <= MAX_ENTRY_UNITS) {
      waiting.units += units;
      waiting.calls++;
      return waiting.done;
    }
    let settle!: Waiting['settle'];
    const done = new Promise<string>((resolve) => {
      settle = resolve;
    });
    const entry: Waiting = { line: { ...line, id: `track-${randomUUID()}` }, units, calls: 1n, done, settle };
    open.set(key, entry);
    setTimeout(() => {
      if (open.get(key) === entry) open.delete(key);
      if (entry.calls > 1n) entry.line.calls = entry.calls.toString();
      entry.settle(storeLine(entry.line, metricType, formatQuantity(metricType, entry.units, scaleOf)));
    }, mergeMs);
    return done;
  }

  return {
    async track({ merchantId, metricType, by = '1', time, id }) {
      if (RESERVED_METRICS.includes(metricType)) {
        throw new TallyError('RESERVED_METRIC', `${metricType} is derived by Tally and may not be sent.`);
      }
      let { scaleOf } = await registry.current();
      let units = parseQuantity(metricType, String(by), scaleOf);
      // A meter may have been created since this process loaded the registry.
      if (units === undefined) {
        ({ scaleOf } = await registry.reload());
        units = parseQuantity(metricType, String(by), scaleOf);
      }
      if (units === undefined || units > MAX_ENTRY_UNITS) {
        throw new TallyError('INVALID_INPUT', `by: Expected a quantity of ${metricType}, from 0 to 10^15 units.`);
      }
      const at = time === undefined ? now() : parseTime(time)!;
      if (at > now() + MAX_AHEAD_MS) throw new TallyError('TIME_IN_FUTURE', tooFarAhead(at, now()));
      if (dayOf(at) < addDays(dayOf(now()), -LIVE_DAYS)) {
        throw new TallyError(
          'TIME_TOO_OLD',
          `A plain counter goes back ${LIVE_DAYS} days; send older usage with usage.record.`,
        );
      }
      const line: JournalLine = { merchant_id: merchantId, date: dayOf(at), id: id ?? '', time: at };
      try {
        if (units === 0n) return { total: await totalOf(merchantId, line.date, metricType) };
        if (id === undefined) return { total: await merged(line, metricType, units, scaleOf) };
        return { total: await storeLine(line, metricType, formatQuantity(metricType, units, scaleOf)) };
      } catch (error) {
        if (error instanceof TallyError) throw error;
        throw new TallyError('UNAVAILABLE', 'The call could not be stored; send it again.', { cause: error });
      }
    },
  };
}
