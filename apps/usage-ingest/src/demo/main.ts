import { addDays, dayOf } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient, messageOf } from '@tally/contracts/client';
import { withProgress } from '../sources/files/progress.ts';
import { sendEntries } from '../sources/files/send.ts';
import { demoDirectory, demoTraffic } from './traffic.ts';

const DAYS = 90;

const key = process.env.TALLY_ADMIN_KEY ?? '';
const ingest = createIngestClient({ url: process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001', key });
const analytics = createAnalyticsClient({ url: process.env.ANALYTICS_API_URL ?? 'http://127.0.0.1:4003', key });

try {
  const now = Date.now();
  const endDate = dayOf(now);
  const startDate = addDays(endDate, 1 - DAYS);
  const entries = [...demoTraffic(startDate, endDate)].filter(({ time }) => Date.parse(time!) <= now);
  await analytics.directory.upsert.mutate({ entries: [...demoDirectory] });
  const summary = await withProgress('entries', entries.length, (onBatch) =>
    sendEntries(entries, { client: ingest, backfill: true, onBatch }),
  );
  console.log(`${startDate} to ${endDate}: ${summary.accepted} entries counted, ${summary.duplicates} already there`);
  await createMeter();
  await createBudget();
  for (const by of ['merchant', 'model', 'user'] as const) {
    const { rows, totals, total } = await analytics.analytics.breakdown.query({ startDate, endDate, by, limit: 5 });
    console.log(`\nby ${by}, ${rows.length} of ${total}, by cost`);
    console.table(
      [...rows.map((row) => ({ ...row, key: row.label })), { ...totals, key: 'all' }].map((row) => ({
        [by]: row.key,
        requests: row.requests,
        tokens: row.totalTokens,
        'cost (USD)': row.cost,
        'success %': row.successRate,
      })),
    );
  }
} catch (error) {
  console.error(`Demo failed: ${messageOf(error)}\nStart the services first: npm start`);
  process.exitCode = 1;
}

/** Creates the meter of the traffic's custom metric, unless an earlier run has. */
async function createMeter() {
  const { rows } = await ingest.meters.list.query({});
  if (rows.some(({ key }) => key === 'pages_read')) return;
  await ingest.meters.create.mutate({
    key: 'pages_read',
    name: 'Pages read',
    unit: 'pages',
    aggregation: 'SUM',
    metricType: 'pages',
    dimensions: ['user', 'model'],
  });
}

/** Creates a budget, unless an earlier run has. */
async function createBudget() {
  const name = 'Acme, cost of a month';
  const { rows } = await ingest.budgets.list.query({ search: name });
  if (rows.length > 0) return;
  await ingest.budgets.create.mutate({
    name,
    scope: { merchantId: 'acme' },
    measure: 'cost',
    limit: '15',
    period: 'month',
    enforcement: 'soft',
    thresholds: [80, 100],
  });
}
