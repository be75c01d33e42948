import { createTally } from '../index.ts';
import { createSpool, type SpoolPromise } from '../spool/index.ts';

/**
 * A producer as a process: records entries one by one and prints the number of accepted ones, until it is killed.
 * Arguments: url, key, merchant, directory, promise, records per turn (0: only send what is left, then end).
 */
const [url, key, merchantId, directory, promise, perTurn] = process.argv.slice(2) as [
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
  spool: createSpool({ directory, promise, segmentBytes: 20_000 }),
  lingerMs: 20,
  backoff: { firstMs: 10, mostMs: 50 },
  onError: () => {},
});

if (perTurn === '0') {
  const { ok } = await tally.close({ deadlineMs: 20_000 });
  process.stdout.write(`${JSON.stringify({ ok, stats: tally.stats() })}\n`);
} else {
  let taken = 0;
  setInterval(() => {
    for (let each = 0; each < Number(perTurn); each++) {
      const entry = { merchantId, userId: `u${taken % 7}`, metrics: { prompt_tokens: 3, cost: '0.000000001' } };
      if (tally.record(entry).ok) taken++;
    }
    process.stdout.write(`${taken}\n`);
  }, 1);
}
