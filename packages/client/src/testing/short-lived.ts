import { createTally } from '../index.ts';
import { createSpool } from '../spool/index.ts';

/**
 * A process that records and ends, without a word to the client. Arguments: url, key, merchant, directory of a spool
 * ('' for none), and how it ends: `idle` (nothing left to do), `signal` (waits for one), `exit` (process.exit).
 */
const [url, key, merchantId, directory, end] = process.argv.slice(2) as [string, string, string, string, string];

const tally = createTally({
  url,
  key,
  lingerMs: 600_000,
  ...(directory ? { spool: createSpool({ directory }) } : {}),
});
for (let each = 0; each < 500; each++) tally.record({ merchantId, userId: `u${each % 9}`, metrics: {} });
tally.track({ merchantId, metricType: 'queries' });
if (end === 'signal') setInterval(() => {}, 1000);
process.stdout.write('recorded\n', () => {
  if (end === 'exit') process.exit();
});
