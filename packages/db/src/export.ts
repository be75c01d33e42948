import { Day } from '@tally/contracts';
import { defaultDays, EXPORTED_VIEWS, exportViews } from './export-views.ts';

// `npm run job:export -- TARGET [FROM TO] [VIEW …]`: days of views for BI tools as compressed CSV.
const [target, ...rest] = process.argv.slice(2);
const days = rest.filter((each) => Day.safeParse(each).success);
const views = rest.filter((each) => !days.includes(each));
const url = process.env.DATABASE_URL;
const { startDate, endDate } = days.length === 2 ? { startDate: days[0]!, endDate: days[1]! } : defaultDays(Date.now());
if (!url || !target || days.length === 1 || days.length > 2 || startDate > endDate) {
  console.error(
    'usage: DATABASE_URL=… export TARGET [FROM TO] [VIEW …], TARGET a folder or s3://bucket/prefix, days as YYYY-MM-DD',
  );
  process.exit(1);
}
try {
  const written = await exportViews(url, {
    target,
    startDate,
    endDate,
    views: views.length > 0 ? views : EXPORTED_VIEWS,
  });
  for (const [view, rows] of Object.entries(written)) console.log(`${view}: ${rows} rows, ${startDate} to ${endDate}`);
} catch (error) {
  console.error(`The export failed: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}
