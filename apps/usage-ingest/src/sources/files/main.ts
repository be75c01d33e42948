import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { addDays, dayOf, isDay } from '@tally/contracts';
import { createIngestClient, messageOf } from '@tally/contracts/client';
import { readAzureTrace } from './azure-llm.ts';
import { readEvents } from './events.ts';
import { withProgress } from './progress.ts';
import { sendEntries } from './send.ts';

const USAGE = `Usage: npm run import -- events FILE.{csv,ndjson} [--merchant M] [--backfill]
       npm run import -- azure-llm FILE [--merchant M] [--on YYYY-MM-DD]`;
/** Bytes of a line, to show the progress before the end is known. */
const BYTES_PER_LINE = { 'azure-llm': 37, events: 200 };

const { values, positionals } = read();
const [format, file] = positionals;
const on = values.on ?? addDays(dayOf(Date.now()), -1);
if ((format !== 'azure-llm' && format !== 'events') || !file || positionals.length > 2) refuse();
if (!isDay(on)) refuse(`--on must be a day, such as 2026-11-20, not ${on}.`);
if (!existsSync(file)) refuse(`There is no file ${resolve(file)}.`);
const url = process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001';

try {
  const client = createIngestClient({ url, key: process.env.TALLY_ADMIN_KEY ?? '' });
  const { size } = await stat(file);
  const started = performance.now();
  const merchantId = values.merchant;
  const events =
    format === 'events'
      ? readEvents(file, { merchantId })
      : readAzureTrace(file, { merchantId: merchantId ?? 'azure', on });
  const summary = await withProgress('events', Math.round(size / BYTES_PER_LINE[format]), (onBatch) =>
    sendEntries(events, { client, backfill: values.backfill, onBatch }),
  );
  const seconds = (performance.now() - started) / 1000;
  const rejected = summary.entries - summary.accepted - summary.duplicates;
  console.log(`${file}, in ${seconds.toFixed(1)} s`);
  console.log(
    `  ${summary.entries} events read: ${summary.accepted} counted, ${summary.duplicates} already there, ${rejected} rejected`,
  );
  for (const { id, code, message } of summary.rejected.slice(0, 5)) console.log(`  ${id}: ${code} ${message}`);
  if (rejected > 0) process.exitCode = 1;
} catch (error) {
  console.error(
    `Import failed: ${messageOf(error)}\nWhat was counted stays counted; run it again and only the rest is added. Is ${url} up (npm start)?`,
  );
  process.exitCode = 1;
}

function read() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { merchant: { type: 'string' }, on: { type: 'string' }, backfill: { type: 'boolean', default: false } },
    });
  } catch (error) {
    return refuse((error as Error).message);
  }
}

function refuse(reason?: string): never {
  console.error(reason ? `${reason}\n\n${USAGE}` : USAGE);
  process.exit(1);
}
