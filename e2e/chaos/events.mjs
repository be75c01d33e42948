import { setTimeout as wait } from 'node:timers/promises';
import { startLoad } from './load.mjs';
import { reviveAll, strikeOnce } from './strikes.mjs';

/** Events recorded while services and stores are killed: each acknowledged one must be counted once, in all forms. */
export function eventsUnderKills({ world, random }) {
  /** Runs load with one or two kills in the middle of it, restarts everything, and waits until all is acknowledged. */
  async function oneRun(name) {
    const load = startLoad(name, world.ingests, random);
    const struck = [];
    const strikesNow = random() < 0.3 ? 2 : 1;
    for (let strike = 0; strike < strikesNow; strike++) {
      await wait(random() * 400);
      struck.push(await strikeOnce(world, random));
    }
    await wait(random() * 200);
    await reviveAll(world);
    return { struck, found: await compare(await load.stop()) };
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

  return { oneRun, faults: ['lost', 'doubled', 'drift'] };
}
