import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './home.mjs';

/**
 * Arguments and purpose of each command of package.json, but those whose program has a help of its own (parity). `free`:
 * its program refuses what it does not know.
 */
const COMMANDS = {
  start: ['', 'Starts a private Postgres and Redis, and all services. Ends with Ctrl-C.'],
  dev: ['', 'The same as npm start; rebuilds what changes, and restarts the services that use it.'],
  test: ['[--filter=WORKSPACE]', 'Runs all tests with a private Postgres and Redis.', 'free'],
  matrix: ['', 'Runs all tests on Node.js 20, 22 and 24.'],
  import: ['events FILE | azure-llm FILE [options]', 'Records the events of a file.', 'free'],
  demo: ['', 'Records 90 days of usage of three merchants and shows it. Creates a meter and a budget.'],
  'job:aggregate': ['', "Flushes yesterday's events."],
  'job:aggregate-date': ['YYYY-MM-DD', 'Flushes the events of a day.'],
  'job:aggregate-range': ['START END', 'Flushes the events of some days.'],
  'job:aggregate-merchant': ['ID [DATE]', 'Flushes the events of a merchant.'],
  'job:status': ['[DATE]', 'Shows what waits to be flushed.'],
  'job:reconcile': ['[START END]', 'Compares all stored forms of some days; by default of the last 7.'],
  'job:rebuild': ['START END', 'Computes the rollups of some days again from the journal.'],
  'job:erase-user': ['MERCHANT USER', 'Replaces a user by a pseudonym everywhere; all numbers stay.'],
  'job:drain': ['', 'Flushes all that waits, before going back to the previous release.'],
  'job:after-restore': ['', 'Makes Redis forget event ids and answers, after Postgres was restored from a backup.'],
  'job:verify-restore': ['[FROM] [TO]', 'Compares restored stores that no service uses yet.'],
  'job:export': ['TARGET [FROM TO] [VIEW ...] [--format csv|parquet]', 'Exports views for BI tools.', 'free'],
  'job:scheduler': ['', 'Flushes every USAGE_AGGREGATION_INTERVAL ms.'],
  health: ['', 'Shows what each service says of its stores. Exits with 1 if one is not ready.'],
  chaos: ['[--runs N] [--seed N] [--budgets | --cluster]', 'Kills services and stores under load.', 'free'],
  mixed: ['REF', 'Runs another version beside this one, on the same stores.'],
  'db:distribute': ['[--yes]', 'Spreads the large tables over the nodes of Citus, by merchant.', '--yes'],
  soak: ['[--minutes N] [--rate N] [--workload NAME]', 'Runs at a steady rate for long, and measures memory.', 'free'],
};

/**
 * Exits with the usage of a command of package.json if it is asked for, and with `failure` for an option that the
 * command does not have: many commands change data as soon as they start. Otherwise does nothing.
 */
export function helpOrContinue(name, args, failure = 1) {
  const command = COMMANDS[name];
  if (!command) return;
  const [parameters, purpose, known] = command;
  const start = name === 'start' || name === 'test' ? `npm ${name}` : `npm run ${name}`;
  const usage = `Usage: ${[start, parameters && `-- ${parameters}`].filter(Boolean).join(' ')}\n\n${purpose}`;
  if (args.includes('--help') || args.includes('-h')) {
    console.log(usage);
    process.exit(0);
  }
  const unknown = known === 'free' ? undefined : args.find((each) => each.startsWith('-') && each !== known);
  const surplus = parameters === '' ? args[0] : undefined;
  if (unknown === undefined && surplus === undefined) return;
  console.error(`${unknown ?? surplus} is not an argument of this command.\n${usage}`);
  process.exit(failure);
}

/** Returns the command of package.json that runs a script, with the arguments that follow those of the command. */
export function commandOf(script, args) {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  for (const [name, line] of Object.entries(scripts)) {
    const words = line.split(' ');
    const at = words.indexOf(script);
    const own = words.slice(at + 1);
    if (at > 0 && own.every((word, index) => word === args[index])) return { name, args: args.slice(own.length) };
  }
  return undefined;
}
