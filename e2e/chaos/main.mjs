import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { FAULT_POINTS } from '../../apps/usage-ingest/dist/faults.js';
import { startLoad } from './load.mjs';
import { createWorld } from './world.mjs';

/** Fault points on the path of the load: nothing is adjusted here, and a repair is rare. */
const POINTS = FAULT_POINTS.filter((point) => /^(record|flush)\./.test(point));

const { values } = parseArgs({ options: { runs: { type: 'string', default: '20' }, seed: { type: 'string' } } });
const runs = Number(values.runs);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const random = randomOf(seed);
const totals = { runs: 0, kills: 0, acknowledged: 0, lost: 0, doubled: 0, drift: 0 };
const strikes = {};

console.log(`chaos: ${runs} runs, seed ${seed}`);
const home = await mkdtemp(join(tmpdir(), 'tally-chaos-'));
const world = await createWorld(home);
let stopped = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => (stopped = true));
try {
  const session = Date.now().toString(36);
  for (let run = 0; run < runs && !stopped; run++) {
    const { struck, acknowledged } = await oneRun(`${session}-${run}`);
    const found = await compare(acknowledged);
    totals.runs++;
    for (const name of struck) {
      totals.kills++;
      strikes[name] = (strikes[name] ?? 0) + 1;
    }
    for (const [name, value] of Object.entries(found)) totals[name] += value;
    const verdict = found.lost + found.doubled + found.drift === 0 ? 'ok' : JSON.stringify(found);
    console.log(
      `run ${String(run + 1).padStart(4)}  ${struck.join(' + ').padEnd(44)} ${String(found.acknowledged).padStart(6)} entries  ${verdict}`,
    );
  }
} finally {
  await world.close();
  await rm(home, { recursive: true, force: true });
}

console.table(strikes);
console.table([totals]);
process.exit(totals.lost + totals.doubled + totals.drift === 0 && totals.runs === runs ? 0 : 1);

/**
 * Runs load with one or two kills in the middle of it, restarts everything, and waits until all of it is acknowledged.
 */
async function oneRun(name) {
  const load = startLoad(name, world.ingests, random);
  const struck = [];
  const strikesNow = random() < 0.3 ? 2 : 1;
  for (let strike = 0; strike < strikesNow; strike++) {
    await wait(random() * 400);
    struck.push(await strikeOnce());
  }
  await wait(random() * 200);
  await Promise.all([...world.servers.handles.map(revive), ...world.ingests.map((ingest) => ingest.start())]);
  return { struck, acknowledged: await load.stop() };
}

async function strikeOnce() {
  const ingest = pick(world.ingests);
  const target = pick(['ingest', 'redis', 'postgres', 'point', 'point']);
  if (target === 'ingest') await ingest.kill();
  else if (target === 'point') {
    const point = pick(POINTS);
    await ingest.kill();
    await ingest.start(`${point}:${1 + Math.floor(random() * 3)}`);
    for (let waited = 0; ingest.alive() && waited < 3_000; waited += 50) await wait(50);
    const name = ingest.alive() ? `${point} (not reached)` : point;
    await ingest.kill();
    return name;
  } else {
    const handle = world.servers[target];
    await handle.kill('SIGKILL');
    if (random() < 0.5) await wait(random() * 500);
    await handle.start();
  }
  return target;
}

async function revive(handle) {
  const ended = await Promise.race([handle.exited.then(() => true), wait(0).then(() => false)]);
  if (ended) await handle.start();
}

/** Compares what was acknowledged with the journal and the running totals. */
async function compare(acknowledged) {
  const found = { acknowledged: 0, lost: 0, doubled: 0, drift: 0 };
  const { patientClient: client } = world.ingests[0];
  const merchantIds = [...acknowledged.keys()];
  const { complete } = await client.flush.drain.mutate({ merchantIds });
  if (!complete) throw new Error('not everything could be brought to Postgres, with all servers up');
  const endDate = new Date().toISOString().slice(0, 10);
  const startDate = new Date(Date.now() - 5 * 86_400_000).toISOString().slice(0, 10);
  for (const [merchantId, known] of acknowledged) {
    const events = await world.query(
      'select date::text as date, id, prompt_tokens::text as tokens from usage_events where merchant_id = $1',
      [merchantId],
    );
    const journal = new Map(events.map((row) => [`${row.date} ${row.id}`, row.tokens]));
    const [{ counted }] = await world.query(
      `select coalesce(sum(metric_value), 0)::text as counted from merchant_usage where merchant_id = $1 and metric_type = 'requests'`,
      [merchantId],
    );
    const lost = [...known].filter(([identity, tokens]) => journal.get(identity) !== tokens).length;
    found.acknowledged += known.size;
    found.lost += lost;
    found.doubled += Math.max(0, Number(counted) - (known.size - lost));
  }
  const { drift } = await client.reconcile.check.query({ startDate, endDate, merchantIds });
  for (const row of drift) console.error(JSON.stringify(row));
  found.drift = drift.length;
  return found;
}

function pick(list) {
  return list[Math.floor(random() * list.length)];
}

/** Yields numbers from 0 to 1 that depend only on the seed (mulberry32). */
function randomOf(from) {
  let state = from;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
