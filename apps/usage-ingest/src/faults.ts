/** Named points at which a crash test may strike; otherwise they do nothing. */
export const FAULT_POINTS = [
  'record.before-store',
  'record.before-redis',
  'record.after-store',
  'flush.before-read',
  'flush.before-append',
  'flush.before-commit',
  'flush.after-commit',
  'flush.after-remove',
  'adjust.before-commit',
  'reconcile.before-set',
] as const;

export type FaultPoint = (point: (typeof FAULT_POINTS)[number]) => Promise<void> | void;

/** Does nothing: used by every process outside of crash tests. */
export const noFaults: FaultPoint = () => {};

/**
 * Parses `TALLY_FAULT`, such as `flush.after-commit:3`: the process kills itself, like `kill -9`, when it reaches that
 * point for the third time. Only for crash tests.
 */
export function faultsOf(setting: string | undefined): FaultPoint {
  if (!setting) return noFaults;
  const [point, count = '1'] = setting.split(':');
  if (!FAULT_POINTS.some((known) => known === point)) throw new Error(`There is no fault point ${point}`);
  let left = Number(count);
  return (reached) => {
    if (reached !== point) return;
    left--;
    if (left <= 0) process.kill(process.pid, 'SIGKILL');
  };
}
