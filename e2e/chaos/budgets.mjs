import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { reviveAll, strikeOnce } from './strikes.mjs';

const MERCHANTS = 20;
/** USD that a call reserves; it uses from 1 to all of them. */
const RESERVED = 10;
const NANO = 1_000_000_000n;
/** A run ends after this time, or once every budget is used up. */
const RUN_MS = 15_000;
const GIVE_UP_MS = 300_000;

/**
 * Callers that reserve, then settle or release, while services and stores are killed and Redis fails over to a copy that
 * is behind. Each run has budgets of its own, small enough to be used up, and all share one for all merchants.
 */
export async function budgetsUnderKills({ world, random, home, callers }) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const hard = { measure: 'cost', period: 'total', enforcement: 'hard', whenUnavailable: 'refuse' };
  const patient = () => world.ingests[0].patientClient.budgets;
  const shared = await patient().create.mutate({ ...hard, limit: '900000000' });

  /** Repeats a call through random ingests until it is answered. */
  async function again(call) {
    for (const deadline = Date.now() + GIVE_UP_MS; ; ) {
      try {
        return await call(pick(world.ingests).client.budgets);
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await wait(20 + random() * 80);
      }
    }
  }

  async function merchantOf(merchantId) {
    const limit = 200 + Math.floor(random() * 400);
    const { id } = await patient().create.mutate({ ...hard, scope: { merchantId }, limit: String(limit) });
    return {
      ...{ merchantId, limit, budgetId: id, isOver: false, acknowledged: 0, reservedAtFailures: 0 },
      /** What is or may be reserved, by id. */
      open: new Map(),
      /** The most that may be used now: what is or may be reserved, and what was or may be settled. */
      most: 0,
      watching: new Set(),
    };
  }

  function change(merchant, by) {
    merchant.most += by;
    for (const watch of merchant.watching) watch.peak = Math.max(watch.peak, merchant.most);
  }

  async function useOnce(merchant, id, counts) {
    const watch = { peak: merchant.most };
    merchant.watching.add(watch);
    merchant.open.set(id, RESERVED);
    change(merchant, RESERVED);
    const { merchantId } = merchant;
    const request = { id, merchantId, amounts: { cost: String(RESERVED) }, ttlSeconds: 3_600 };
    let attempts = 0;
    const { allowed, reservationId } = await again(async (budgets) => {
      attempts++;
      const answer = await budgets.reserve.mutate(request);
      if (!answer.degraded) return answer;
      // It may be reserved although nobody knows: the same id asks again.
      counts.degraded++;
      throw new Error('the store of budgets is unavailable');
    });
    merchant.watching.delete(watch);
    if (!allowed) {
      // An attempt without an answer may still be reserved later, until it expires.
      if (attempts === 1) {
        merchant.open.delete(id);
        change(merchant, -RESERVED);
      }
      counts.refused++;
      if (watch.peak <= merchant.limit) {
        counts.wronglyRefused++;
        console.error(`${id}: refused, while at most ${watch.peak} of ${merchant.limit} were used`);
      }
      return wait(random() * 100);
    }
    counts.reserved++;
    const used = random() < 0.1 ? 0 : 1 + Math.floor(random() * RESERVED);
    if (used === 0) await again((budgets) => budgets.release.mutate({ reservationId }));
    else {
      const entry = { id, merchantId, time: new Date().toISOString(), metrics: { cost: String(used) } };
      await again((budgets) => budgets.settle.mutate({ reservationId, entry }));
    }
    merchant.open.delete(id);
    merchant.acknowledged += used;
    merchant.isOver = merchant.acknowledged + RESERVED > merchant.limit;
    change(merchant, used - RESERVED);
  }

  let merchants = [];
  const watched = new Set();
  /** Notes what is reserved when the running Redis ends: its reservations are lost. */
  function watchRedis() {
    const { exited } = world.servers.redis;
    if (watched.has(exited)) return;
    watched.add(exited);
    exited.then(() => {
      for (const each of merchants) for (const amount of each.open.values()) each.reservedAtFailures += amount;
    });
  }

  /** Starts Redis with what it had some time ago, like a replica that was behind when it took over. */
  async function failOver() {
    const folder = join(home, 'redis', 'appendonlydir');
    const copy = join(home, 'behind');
    for (let isCopied = false; !isCopied; ) {
      await rm(copy, { recursive: true, force: true });
      // A file may be replaced while it is copied.
      isCopied = await cp(folder, copy, { recursive: true }).then(
        () => true,
        () => false,
      );
    }
    await wait(random() * 300);
    await world.servers.redis.kill('SIGKILL');
    await rm(folder, { recursive: true });
    await cp(copy, folder, { recursive: true });
    await world.servers.redis.start();
  }

  async function oneRun(name) {
    merchants = await Promise.all(Array.from({ length: MERCHANTS }, (_, n) => merchantOf(`budget-${name}-${n}`)));
    const counts = { reserved: 0, refused: 0, degraded: 0, wronglyRefused: 0 };
    const deadline = Date.now() + RUN_MS;
    const load = Promise.all(
      Array.from({ length: callers }, async (_, caller) => {
        for (let n = 0; Date.now() < deadline; n++) {
          const left = merchants.filter(({ isOver }) => !isOver);
          if (left.length === 0) return;
          await useOnce(pick(left), `${name}-${caller}-${n}`, counts);
        }
      }),
    );
    // A failure of Redis forgets what is reserved at that moment.
    let isFailedOver = false;
    const struck = [];
    const strikesNow = random() < 0.3 ? 2 : 1;
    for (let strike = 0; strike < strikesNow; strike++) {
      // A budget of a moment before must hold as well.
      await wait(random() * 1_000);
      watchRedis();
      if (random() < 0.3) {
        isFailedOver = true;
        await failOver();
        struck.push('failover');
      } else struck.push(await strikeOnce(world, random));
    }
    await wait(random() * 200);
    await reviveAll(world);
    await load;
    return { struck, found: { ...counts, ...(await compare(isFailedOver)) } };
  }

  /** Compares settlements with the journal, the journal with what budgets say, and all with the limits. */
  async function compare(isFailedOver) {
    const found = { settled: 0, overspent: 0, unequal: 0, lostByFailover: 0 };
    const merchantIds = merchants.map(({ merchantId }) => merchantId);
    const { complete } = await world.ingests[0].patientClient.flush.drain.mutate({ merchantIds });
    if (!complete) throw new Error('not everything could be brought to Postgres, with all servers up');
    const costs = await world.query(
      'select merchant_id, sum(cost)::text as cost from usage_events where merchant_id = any($1) group by 1',
      [merchantIds],
    );
    const fault = (kind, text) => {
      found[kind]++;
      console.error(text);
    };
    for (const { merchantId, budgetId, limit, acknowledged, reservedAtFailures } of merchants) {
      const journal = BigInt(costs.find((row) => row.merchant_id === merchantId)?.cost ?? 0);
      const lost = BigInt(acknowledged) * NANO - journal;
      found.settled += acknowledged;
      if (isFailedOver && lost > 0n) found.lostByFailover += Number(lost / NANO);
      else if (lost !== 0n)
        fault('unequal', `${merchantId}: ${acknowledged} USD settled, ${journal} nano in the journal`);
      const most = BigInt(limit + reservedAtFailures) * NANO + (lost > 0n ? lost : 0n);
      if (BigInt(acknowledged) * NANO > most)
        fault(
          'overspent',
          `${merchantId}: ${acknowledged} of ${limit} used, ${reservedAtFailures} reserved at failures`,
        );
      if (!(await shows(budgetId, journal)))
        fault('unequal', `${merchantId}: the budget does not show ${journal} nano`);
    }
    const [{ cost }] = await world.query('select coalesce(sum(cost), 0)::text as cost from usage_events', []);
    if (!(await shows(shared.id, BigInt(cost)))) fault('unequal', `the budget for all does not show ${cost} nano`);
    return found;
  }

  /** Returns whether a budget shows what the journal has, as soon as nothing waits. */
  async function shows(id, nano) {
    for (const deadline = Date.now() + GIVE_UP_MS; Date.now() < deadline; await wait(200)) {
      const { rows } = await patient().status.query({ id });
      const [{ spent, complete }] = rows;
      const [whole, fraction = ''] = spent.split('.');
      if (complete && BigInt(whole + fraction.padEnd(9, '0')) === nano) return true;
    }
    return false;
  }

  return { oneRun, faults: ['wronglyRefused', 'overspent', 'unequal'] };
}
