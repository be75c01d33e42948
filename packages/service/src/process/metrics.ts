import { Counter, collectDefaultMetrics, Histogram, type Registry } from 'prom-client';

/** Each measurement of the lag wakes the process up, and the lag includes this interval. */
const LAG_INTERVAL_MS = 100;

/** Node's own metrics: memory, event loop lag, garbage collection. */
export function collectProcess(register: Registry): void {
  collectDefaultMetrics({ register, prefix: 'tally_', eventLoopMonitoringPrecision: LAG_INTERVAL_MS });
}

/**
 * Counts requests by route and status. `route` is the name of a procedure or the pattern of a route, never the path as
 * sent.
 */
export function countRequests(register: Registry): (route: string, status: number, durationMs: number) => void {
  const total = new Counter({
    name: 'tally_http_requests_total',
    help: 'HTTP requests by route and status; 499: the client left before it was answered.',
    labelNames: ['route', 'status'],
    registers: [register],
  });
  const seconds = new Histogram({
    name: 'tally_http_request_duration_seconds',
    help: 'Time to answer an HTTP request.',
    labelNames: ['route'],
    buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
    registers: [register],
  });
  return (route, status, durationMs) => {
    total.inc({ route, status });
    seconds.observe({ route }, durationMs / 1000);
  };
}
