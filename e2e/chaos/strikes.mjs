import { setTimeout as wait } from 'node:timers/promises';
import { FAULT_POINTS } from '../../apps/usage-ingest/dist/faults.js';

/** Fault points on the path of the load: nothing is adjusted here, and a repair is rare. */
const POINTS = FAULT_POINTS.filter((point) => /^(record|flush)\./.test(point));

/** Kills an ingest at a random moment or at a named point, or a store, which is started again. Returns what was killed. */
export async function strikeOnce(world, random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
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
    const moment = random();
    if (moment < 0.5) await wait(moment * 1000);
    else if (moment < 0.75) await handle.untilReplaced?.();
    return (await handle.start()) ?? target;
  }
  return target;
}

/** Starts whatever does not run. */
export async function reviveAll(world) {
  await Promise.all([...world.servers.handles.map(revive), ...world.ingests.map((ingest) => ingest.start())]);
}

async function revive(handle) {
  const ended = await Promise.race([handle.exited.then(() => true), wait(0).then(() => false)]);
  if (ended) await handle.start();
}

/** Yields numbers from 0 to 1 that depend only on the seed (mulberry32). */
export function randomOf(from) {
  let state = from;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
