import { stat } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { addDays, dayOf, isDay } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { readAzureTrace } from './azure-llm.ts';
import { progressBar } from './progress.ts';
import { sendEntries } from './send.ts';

const USAGE = 'Usage: npm run import -- azure-llm FILE [--merchant M] [--on YYYY-MM-DD]';
/** Bytes of a line of the trace, to tell how far along we are before the end is known. */
const BYTES_PER_LINE = 37;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { merchant: { type: 'string', default: 'azure' }, on: { type: 'string' } },
});
const [source, file] = positionals;
const on = values.on ?? addDays(dayOf(Date.now()), -1);
if (source !== 'azure-llm' || !file || positionals.length > 2 || !isDay(on)) {
  console.error(USAGE);
  process.exit(1);
}
const url = process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001';

try {
  const client = createIngestClient({ url, key: process.env.TALLY_ADMIN_KEY ?? '' });
  const { size } = await stat(file);
  const bar = progressBar('entries', Math.round(size / BYTES_PER_LINE));
  const started = performance.now();
  const summary = await sendEntries(readAzureTrace(file, { merchantId: values.merchant, on }), {
    client,
    onBatch: (entries) => bar.advance(entries),
  }).finally(() => bar.stop());
  const seconds = (performance.now() - started) / 1000;
  console.log(`${file} → merchant ${values.merchant}, ${on}, in ${seconds.toFixed(1)} s`);
  console.log(
    `  ${summary.entries} entries read: ${summary.accepted} counted, ${summary.duplicates} already there, ${summary.entries - summary.accepted - summary.duplicates} rejected`,
  );
  for (const { id, code, message } of summary.rejected.slice(0, 5)) console.log(`  ${id}: ${code} ${message}`);
  if (summary.rejected.length > 0) process.exitCode = 1;
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  console.error(
    `Import failed: ${message}\nWhat was counted stays counted; run it again and only the rest is added. Is ${url} up (npm start)?`,
  );
  process.exitCode = 1;
}
