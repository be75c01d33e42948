import { addDays, Day, dayOf } from '@tally/contracts';
import { presentDrift, presentMeterDrift } from '../reconcile/index.ts';
import { readSettings, withRestoredStores } from './restored-stores.ts';

// `npm run job:verify-restore [from] [to]`, before any service starts on restored stores. Compares all stored forms
// without repairing any: a service would set the running totals to what the restored Postgres knows, and hide what is
// missing there. Exits with 1 if anything differs.
const MAX_IDS = 20;

const args = process.argv.slice(2);
const env = readSettings();
const today = dayOf(Date.now());
const [startDate, endDate] = [args[0] ?? addDays(today, -env.JOURNAL_RETENTION_DAYS), args[1] ?? addDays(today, 1)];
if (args.length > 2 || ![startDate, endDate].every((day) => Day.safeParse(day).success) || startDate > endDate) {
  console.error('usage: verify-restore [from] [to], days as YYYY-MM-DD');
  process.exit(1);
}

const job = { name: 'verify-restore', failed: 'The comparison failed', env };
await withRestoredStores(job, async ({ reconcile, flush }) => {
  const { pendingKeys } = await flush.status();
  const { balanced, drift, meters, merchantsChecked, numbersChecked } = await reconcile.checkRestored({
    startDate,
    endDate,
  });
  for (const row of drift.map((each) => presentDrift(each))) {
    const { merchantId, date, metricType, journal, live } = row;
    const isOlder = row.drift.startsWith('-');
    const why = isOlder ? 'so it is older, or lost data' : `so events of ${row.drift} are missing or too many`;
    const missing = live === null ? '' : ` Redis counted ${live}, ${why};`;
    console.log(`${merchantId} ${date} ${metricType}: Postgres has ${journal};${missing} difference ${row.drift}`);
    for (const { id, why } of row.suspects.slice(0, MAX_IDS)) console.log(`    event ${id}: ${why}`);
  }
  for (const { meter, merchantId, date, rollup, rows, first } of meters.map(presentMeterDrift))
    console.log(
      `${merchantId} ${date} meter ${meter}: ${rows} rows of ${rollup} differ; first ${first.period} ${first.group.join()}: ` +
        `made of ${first.journal ?? 'nothing'}, stored ${first.stored ?? 'nothing'}`,
    );
  console.log(`${pendingKeys ?? 'an unknown number of'} merchants have events in Redis that the next flush counts`);
  console.log(
    `${numbersChecked} numbers of ${merchantsChecked} merchants, ${startDate} to ${endDate}: ` +
      (balanced ? 'every stored form agrees' : `${drift.length + meters.length} differ`),
  );
  process.exitCode = balanced ? 0 : 1;
});
