import { pino } from 'pino';

export type Log = pino.Logger;

/** Writes JSON lines to standard output, without fields that may hold secrets. */
export function createLog(service: string, level: string): Log {
  return pino({
    level,
    base: { service },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    redact: { paths: ['authorization', '*.authorization', 'headers.authorization', 'key', '*.key'], remove: true },
  });
}
