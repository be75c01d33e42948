import type { FlushResult } from '@tally/contracts';
import { failureLog, type Log, type Loop, startLoop } from '@tally/service';

export type SchedulerOptions = {
  /** `USAGE_AGGREGATION_INTERVAL`. */
  intervalMs: number;
  run(): Promise<FlushResult>;
  log: Log;
};

/** Runs the documented job in the process: every interval, for yesterday. Retries a failed run with growing pauses. */
export function startScheduler({ intervalMs, run, log }: SchedulerOptions): Loop {
  return startLoop(
    intervalMs,
    async () => {
      log.info('aggregation starts');
      const { errors, keysProcessed, recordsAggregated, durationMs } = await run();
      log.info({ keysProcessed, recordsAggregated, errors: errors.length, durationMs }, 'aggregation completed');
      for (const error of errors) log.error(error, 'aggregation of a key failed');
      if (errors.length > 0) throw new Error(`${errors.length} keys failed`);
    },
    failureLog(log, 'aggregation failed; it is tried again'),
  );
}
