import { Counter, Gauge, type Registry } from 'prom-client';

export type LitellmMetrics = {
  pulled(at: number): void;
  pullFailed(): void;
  missing(rows: number): void;
  differingDays(days: number): void;
};

export function createLitellmMetrics(register: Registry): LitellmMetrics {
  const registers = [register];
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
    pulled: (at) => last.set(at / 1000),
    pullFailed: () => failures.inc(),
    missing: (rows) => missing.inc(rows),
    differingDays: (days) => differing.set(days),
  };
}
