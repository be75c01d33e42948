import { CACHED_ANSWERS, removeKeys } from '@tally/service';
import { readSettings, withRestoredStores } from './restored-stores.ts';

// `npm run job:after-restore`, before any service starts on a restored Postgres. What Redis remembers of events that
// Postgres lost would keep them lost: their repeats would be duplicates, and cached answers would count them. Events
// that wait in Redis and running totals stay.
const job = { name: 'after-restore', failed: 'The job failed', env: readSettings() };
await withRestoredStores(job, async ({ db, redis, window }) => {
  await db.changeLog.restart();
  console.log('the log of changes is empty: readers of usage.changes begin without a cursor');
  await window.forget();
  console.log('the event ids in Redis are forgotten: what the journal lacks counts when it is sent again');
  console.log(`${await removeKeys(redis, CACHED_ANSWERS)} cached answers are removed`);
});
