import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { budgetsUnderKills } from './budgets.mjs';
import { eventsUnderKills } from './events.mjs';
import { randomOf } from './strikes.mjs';
import { createWorld } from './world.mjs';

const { values } = read();
const runs = Number(values.runs);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const random = randomOf(seed);
if (values.budgets && values.cluster) throw new Error('Give --budgets or --cluster: budgets need one Redis.');
const totals = { runs: 0, kills: 0 };
const strikes = {};

console.log(
  `chaos${values.budgets ? ' of budgets' : values.cluster ? ' on a Redis Cluster' : ''}: ${runs} runs, seed ${seed}`,
);
const home = await mkdtemp(join(tmpdir(), 'tally-chaos-'));
const world = await createWorld(home, { cluster: values.cluster, random });
let [stopped, isBad] = [false, false];
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => (stopped = true));
try {
  const session = Date.now().toString(36);
  const { oneRun, faults } = values.budgets
    ? await budgetsUnderKills({ world, random, home, callers: Number(values.callers) })
    : eventsUnderKills({ world, random });
  for (let run = 0; run < runs && !stopped; run++) {
    const { struck, found } = await oneRun(`${session}-${run}`);
    totals.runs++;
    for (const name of struck) {
      totals.kills++;
      strikes[name] = (strikes[name] ?? 0) + 1;
    }
    for (const [name, value] of Object.entries(found)) totals[name] = (totals[name] ?? 0) + value;
    const isOk = faults.every((name) => found[name] === 0);
    isBad ||= !isOk;
    const counts = Object.entries(found).map(([name, value]) => `${name} ${value}`);
    console.log(`run ${run + 1}  ${isOk ? 'ok' : 'FAULT'}  ${struck.join(' + ').padEnd(44)} ${counts.join(', ')}`);
  }
} finally {
  await world.close();
  await rm(home, { recursive: true, force: true });
}

console.table(strikes);
console.table([totals]);
process.exit(!isBad && totals.runs === runs ? 0 : 1);

function read() {
  try {
    return parseArgs({
      options: {
        runs: { type: 'string', default: '20' },
        seed: { type: 'string' },
        /** Callers that reserve and settle, in place of events that are only recorded. */
        budgets: { type: 'boolean', default: false },
        callers: { type: 'string', default: '1000' },
        /** Events on a Redis Cluster, whose masters are killed. */
        cluster: { type: 'boolean', default: false },
      },
    });
  } catch (error) {
    console.error(
      `${error.message}\nusage: npm run chaos -- [--runs 20] [--seed N] [--budgets [--callers 1000] | --cluster]`,
    );
    process.exit(1);
  }
}
