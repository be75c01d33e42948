import { addDays, type Day, dayOf, eachDay, isDay } from '@tally/contracts';
import type { IngestClient } from '@tally/contracts/client';
import { withProgress } from '../sources/files/progress.ts';

export type Output = { log(line: string): void; error(line: string): void; now(): number };

const USAGE = `Usage:
  npm run job:aggregate                        yesterday
  npm run job:aggregate-date YYYY-MM-DD
  npm run job:aggregate-range START END
  npm run job:aggregate-merchant ID [DATE]
  npm run job:status [DATE]
  npm run job:reconcile [START END]            compares all stored forms; default: the last 7 days
  npm run job:rebuild START END                recomputes the rollups of these days from the journal
  npm run job:erase-user MERCHANT USER         replaces a user by a pseudonym everywhere; all numbers stay
  npm run job:drain                            flushes all that waits; before going back to the previous release
  npm run job:scheduler                        the job, every USAGE_AGGREGATION_INTERVAL ms`;

type Run = {
  success: boolean;
  keysProcessed: number;
  recordsAggregated: number;
  errors: { key: string; message: string }[];
  durationMs: number;
};

/** Runs one of the documented commands. Returns its exit code: 0 done, 1 failed or not understood. */
export async function runCommand(args: readonly string[], client: IngestClient, out: Output): Promise<number> {
  const [command, ...rest] = args;
  const today = dayOf(out.now());
  /**
   * Returns all arguments if they are the expected number of days in order: silently ignored ones would not be counted.
   */
  const days = (...counts: number[]) =>
    counts.includes(rest.length) && rest.every((word) => isDay(word)) && !(rest[0]! > rest[1]!) ? rest : undefined;
  switch (command) {
    case 'aggregate':
    case 'aggregate-date': {
      const given = days(command === 'aggregate' ? 0 : 1);
      if (!given) break;
      const [date = addDays(today, -1)] = given;
      return report(out, date, await client.flush.run.mutate({ date }));
    }
    case 'aggregate-range': {
      const [startDate, endDate] = days(2) ?? [];
      if (!startDate || !endDate) break;
      return aggregateRange(client, out, startDate, endDate);
    }
    case 'aggregate-merchant': {
      const [merchantId, date] = rest;
      if (!merchantId || rest.length > 2 || (date !== undefined && !isDay(date))) break;
      const run = await client.flush.merchant.mutate(date === undefined ? { merchantId } : { merchantId, date });
      return report(out, `${date ?? addDays(today, -1)}, merchant ${merchantId}`, run);
    }
    case 'status': {
      const given = days(0, 1);
      if (!given) break;
      const status = await client.flush.status.query(given[0] ? { date: given[0] } : {});
      for (const [name, value] of Object.entries(status)) out.log(`${name.padEnd(14)} ${value}`);
      return 0;
    }
    case 'drain': {
      if (rest.length > 0) break;
      return drain(client, out);
    }
    case 'erase-user': {
      const [merchantId, userId] = rest;
      if (!merchantId || !userId || rest.length > 2) break;
      return eraseUser(client, out, merchantId, userId);
    }
    case 'reconcile': {
      const given = days(0, 2);
      if (!given) break;
      const [startDate = addDays(today, -6), endDate = today] = given;
      const { balanced, drift, meters, merchantsChecked, numbersChecked } = await client.reconcile.check.query({
        startDate,
        endDate,
      });
      out.log(
        `${numbersChecked} numbers of ${merchantsChecked} merchants, ${startDate} to ${endDate}: ${balanced ? 'every stored form agrees' : `${drift.length + meters.length} differ`}`,
      );
      for (const row of [...drift.slice(0, 50), ...meters.slice(0, 50)]) out.error(JSON.stringify(row));
      return balanced ? 0 : 1;
    }
    case 'rebuild': {
      const [startDate, endDate] = days(2) ?? [];
      if (!startDate || !endDate) break;
      return rebuild(client, out, startDate, endDate);
    }
  }
  const bad = rest.find((word) => /^\d+-\d+-\d+$/.test(word) && !isDay(word));
  const [start, end] = rest;
  if (bad) out.error(`${bad} is not a day: write YYYY-MM-DD.\n`);
  else if (rest.length === 2 && isDay(start!) && isDay(end!) && start! > end!) {
    out.error(`${start} is after ${end}: write the earlier day first.\n`);
  }
  out.error(USAGE);
  return 1;
}

/** Erases a user, repeating the call until nothing is left. */
async function eraseUser(client: IngestClient, out: Output, merchantId: string, userId: string): Promise<number> {
  for (let renamed = 0; ; ) {
    const { pseudonym, complete, events } = await client.users.erase.mutate({ merchantId, userId });
    renamed += events;
    out.log(`${renamed} events renamed to ${pseudonym}${complete ? '; nothing is left' : ', going on'}`);
    if (!complete) continue;
    if (renamed === 0) out.log('No event had this user: check both ids, unless it was erased before.');
    return 0;
  }
}

/** Flushes everything in Redis to Postgres; returns 1 if events still wait, as while producers continue. */
async function drain(client: IngestClient, out: Output): Promise<number> {
  const { recordsAggregated, complete } = await client.flush.drain.mutate({});
  const { pendingKeys } = await client.flush.status.query({});
  out.log(`${recordsAggregated} events flushed, ${pendingKeys} merchants with events waiting`);
  return complete && pendingKeys === 0 ? 0 : 1;
}

async function aggregateRange(client: IngestClient, out: Output, startDate: Day, endDate: Day): Promise<number> {
  const all = eachDay(startDate, endDate);
  const lines: [Day, Run][] = [];
  await withProgress('days', all.length, async (advance) => {
    for (const date of all) {
      lines.push([date, await client.flush.run.mutate({ date })]);
      advance(1);
    }
  });
  for (const [date, run] of lines) report(out, date, run);
  return lines.every(([, run]) => run.success) ? 0 : 1;
}

async function rebuild(client: IngestClient, out: Output, startDate: Day, endDate: Day): Promise<number> {
  const all = eachDay(startDate, endDate);
  let [merchantDays, closedDays] = [0, 0];
  await withProgress('days', all.length, async (advance) => {
    // One month per call: each also rebuilds the sums of its month and year.
    for (const month of new Set(all.map((day) => day.slice(0, 7)))) {
      const own = all.filter((day) => day.startsWith(month));
      const made = await client.reconcile.rebuild.mutate({ startDate: own[0]!, endDate: own.at(-1)! });
      merchantDays += made.days;
      closedDays += made.closedDays;
      advance(own.length);
    }
  });
  out.log(`${merchantDays} days of merchants rebuilt, ${closedDays} of them without their entries`);
  return 0;
}

function report(out: Output, what: string, run: Run): number {
  out.log(
    `${what}: ${run.keysProcessed} keys found, ${run.recordsAggregated} records aggregated, ${run.errors.length} errors, ${run.durationMs} ms`,
  );
  for (const { key, message } of run.errors) out.error(`  ${key}: ${message}`);
  return run.success ? 0 : 1;
}
