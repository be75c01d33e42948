import { setTimeout as wait } from 'node:timers/promises';
import { createIngestClient, messageOf } from '@tally/contracts/client';
import { fetchWithin } from '@tally/service';
import { runCommand } from './command.ts';

/** Longer than any job takes: a rebuild goes through every merchant. */
const LONGEST_CALL_MS = 86_400_000;

const client = createIngestClient({
  url: process.env.USAGE_INGEST_URL ?? 'http://127.0.0.1:4001',
  key: process.env.TALLY_ADMIN_KEY ?? '',
  fetch: fetchWithin(LONGEST_CALL_MS),
});
const out = { log: console.log, error: console.error, now: Date.now };
const args = process.argv.slice(2);

try {
  if (args.length === 1 && args[0] === 'scheduler') await schedule();
  else process.exitCode = await runCommand(args, client, out);
} catch (error) {
  console.error(`The job failed: ${messageOf(error)}`);
  process.exitCode = 1;
}

/** Runs the job repeatedly from outside of the service: for separate schedulers. */
async function schedule(): Promise<never> {
  const intervalMs = Number(process.env.USAGE_AGGREGATION_INTERVAL) || 3_600_000;
  for (;;) {
    await runCommand(['aggregate'], client, out).catch((error: Error) =>
      console.error(`The job failed: ${error.message}`),
    );
    await wait(intervalMs);
  }
}
