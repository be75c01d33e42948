import type { RecordResult } from '@tally/contracts';
import { Counter, Gauge, type Registry } from 'prom-client';

/** How a call was received: pulled, pushed by one of the two callbacks, or as part of a day's sums. */
export type Way = 'pull' | 'generic_api' | 'openmeter' | 'daily';

export type LitellmMetrics = {
  recorded(way: Way, result: Pick<RecordResult, 'accepted' | 'duplicates' | 'rejected'>): void;
  /** Counts items that could not be read. */
  unreadable(way: Way, items: number): void;
  pulled(at: number): void;
  pullFailed(): void;
  missing(rows: number): void;
  differingDays(days: number): void;
};

export function createLitellmMetrics(register: Registry): LitellmMetrics {
  const registers = [register];
  const calls = new Counter({
    name: 'tally_litellm_calls_total',
    help: 'Calls of LiteLLM by the way they were received and the result.',
    labelNames: ['way', 'result'],
    registers,
  });
  const last = new Gauge({
    name: 'tally_litellm_last_pull_timestamp_seconds',
    help: 'When a pull from LiteLLM last completed, in any process; 0 before the first.',
    registers,
  });
  const failures = new Counter({
    name: 'tally_litellm_pull_failures_total',
    help: 'Pulls from LiteLLM that failed; the next one continues.',
    registers,
  });
  const missing = new Counter({
    name: 'tally_litellm_rows_missing_total',
    help: 'Rows that LiteLLM counted but did not return.',
    registers,
  });
  const differing = new Gauge({
    name: 'tally_litellm_differing_days',
    help: 'Days of the last 31 whose calls do not add up to the daily sums of LiteLLM.',
    registers,
  });
  return {
    recorded(way, { accepted, duplicates, rejected }) {
      calls.inc({ way, result: 'accepted' }, accepted);
      calls.inc({ way, result: 'duplicate' }, duplicates);
      const conflicts = rejected.filter(({ code }) => code === 'ID_CONFLICT').length;
      calls.inc({ way, result: 'conflict' }, conflicts);
      calls.inc({ way, result: 'rejected' }, rejected.length - conflicts);
    },
    unreadable: (way, items) => calls.inc({ way, result: 'rejected' }, items),
    pulled: (at) => last.set(at / 1000),
    pullFailed: () => failures.inc(),
    missing: (rows) => missing.inc(rows),
    differingDays: (days) => differing.set(days),
  };
}
