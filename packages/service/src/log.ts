import { pino } from 'pino';

export type Log = pino.Logger;

/** JSON lines on standard output; what could hold a secret is removed. */
export function createLog(service: string, level: string): Log {
  return pino({
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: { paths: ['authorization', '*.authorization', 'headers.authorization', 'key', '*.key'], remove: true },
  });
}
