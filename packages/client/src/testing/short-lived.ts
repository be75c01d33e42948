import { createTally } from '../index.ts';
import { createSpool, type SpoolPromise } from '../spool/index.ts';

/**
 * A process that records and ends without telling the client. Arguments: url, key, merchant, directory of a spool (''
 * for none), its promise, and how the process ends: `idle` (nothing left to do), `signal` (waits for one), `exit`
 * (process.exit), `exit at signal` (its own listener calls process.exit), `exit in close` (close is not awaited),
 * `uncaught` (an exception) or `rejection` (a rejected promise that nobody handles).
 */
const [url, key, merchantId, directory, promise, end] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  SpoolPromise,
  string,
];

const tally = createTally({
  url,
  key,
  lingerMs: 600_000,
  onRejected: ({ code, records }) => process.stdout.write(`${code} ${records}\n`),
  ...(directory ? { spool: createSpool({ directory, promise }) } : {}),
});
for (let each = 0; each < 500; each++) tally.record({ merchantId, userId: `u${each % 9}`, metrics: {} });
tally.track({ merchantId, metricType: 'queries' });
if (end === 'exit at signal') process.on('SIGTERM', () => process.exit(3));
if (end.endsWith('signal')) setInterval(() => {}, 1000);
process.stdout.write('recorded\n', () => {
  if (end === 'exit in close') void tally.close();
  if (end === 'uncaught') throw new Error('uncaught');
  if (end === 'rejection') void Promise.reject(new Error('rejection'));
  if (end === 'exit' || end === 'exit in close') process.exit(3);
});
