import { type DestinationStream, pino } from 'pino';
import { storeFaultOf } from '../errors/store-errors.ts';

export type Log = pino.Logger;

/** The interval at which a failure that goes on is logged again. */
const REPEAT_MS = 60_000;

/** Writes JSON lines, by default to standard output, without fields that may hold secrets. */
export function createLog(service: string, level: string, destination?: DestinationStream): Log {
  return pino(
    {
      level,
      base: { service },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: ['authorization', '*.authorization', 'headers.authorization', 'key', '*.key'], remove: true },
      serializers: { err: describe },
    },
    destination ?? pino.destination(1),
  );
}

/**
 * Returns a function that logs errors of something that is tried again and again: the same one once a minute. `what`
 * says what failed.
 */
export function failureLog(
  log: Log,
  what: string,
  { level = 'error', now = () => performance.now() }: { level?: 'error' | 'warn'; now?: () => number } = {},
): (error: unknown) => void {
  let last: string | undefined;
  let at = 0;
  return (error) => {
    const reason = storeFaultOf(error)?.reason ?? String(error);
    if (reason === last && now() - at < REPEAT_MS) return;
    last = reason;
    at = now();
    log[level]({ err: error }, what);
  };
}

/** Leaves out the stack of a store's fault: it shows who used the store, and its cause is elsewhere. */
function describe(error: unknown): unknown {
  const fault = storeFaultOf(error);
  if (!fault) return pino.stdSerializers.err(error as Error);
  const { name, code } = error as { name: string; code?: unknown };
  return { type: name, message: fault.reason, ...(code !== undefined && { code }) };
}
