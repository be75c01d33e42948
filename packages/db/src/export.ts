import { parseArgs } from 'node:util';
import { Day, messageOf } from '@tally/contracts';
import { defaultDays, EXPORT_FORMATS, EXPORTED_VIEWS, exportViews } from './export-views.ts';

const USAGE =
  'expected DATABASE_URL and TARGET [FROM TO] [VIEW …] [--format csv|parquet]: TARGET is a folder or ' +
  's3://bucket/prefix, days are YYYY-MM-DD, FROM not after TO.';

// `npm run job:export -- TARGET …`: days of views for BI tools as compressed CSV or as Parquet.
try {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { format: { type: 'string', default: 'csv' } },
  });
  const [target, ...rest] = positionals;
  const days = rest.filter((each) => Day.safeParse(each).success);
  const views = rest.filter((each) => !days.includes(each));
  const url = process.env.DATABASE_URL;
  const format = EXPORT_FORMATS.find((name) => name === values.format);
  const { startDate, endDate } =
    days.length === 2 ? { startDate: days[0]!, endDate: days[1]! } : defaultDays(Date.now());
  if (!url || !target || !format || days.length === 1 || days.length > 2 || startDate > endDate) throw new Error(USAGE);
  const written = await exportViews(url, {
    ...{ target, startDate, endDate, format },
    views: views.length > 0 ? views : EXPORTED_VIEWS,
  });
  for (const [view, rows] of Object.entries(written)) console.log(`${view}: ${rows} rows, ${startDate} to ${endDate}`);
} catch (error) {
  const reason = messageOf(error);
  const isOption = (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS');
  console.error(`The export failed: ${isOption ? `${reason}\n${USAGE}` : reason}`);
  process.exit(1);
}
