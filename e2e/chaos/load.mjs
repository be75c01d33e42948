import { setTimeout as wait } from 'node:timers/promises';

const BATCH = 20;
const WORKERS = 4;
const GIVE_UP_MS = 300_000;

/**
 * Sends batches through random ingests until it is stopped. Repeats each whole until it is acknowledged, and some again
 * after that. Each of its workers pauses up to `pauseMs` between two batches. Returns what was acknowledged: merchant →
 * Map of `date id` → tokens.
 */
export function startLoad(run, ingests, random, { pauseMs = 0 } = {}) {
  const acknowledged = new Map();
  let stopping = false;

  const pick = (list) => list[Math.floor(random() * list.length)];
  const worker = async (number) => {
    for (let batch = 0; !stopping; batch++) {
      const merchantId = `chaos-${run}-${pick([1, 2, 3])}`;
      const time = Date.now() - Math.floor(random() * 2 * 86_400_000);
      const entries = Array.from({ length: BATCH }, (_, index) => ({
        id: `${number}-${batch}-${index}`,
        merchantId,
        time: new Date(time).toISOString(),
        userId: `u${index % 3}`,
        metrics: { prompt_tokens: String(1 + index), queries: '2' },
      }));
      await untilAcknowledged(entries);
      const known = acknowledged.get(merchantId) ?? new Map();
      acknowledged.set(merchantId, known);
      for (const entry of entries) known.set(`${entry.time.slice(0, 10)} ${entry.id}`, entry.metrics.prompt_tokens);
      if (random() < 0.2) await untilAcknowledged(entries);
      if (pauseMs > 0) await wait(random() * pauseMs);
    }
  };
  const untilAcknowledged = async (entries) => {
    for (const deadline = Date.now() + GIVE_UP_MS; ; ) {
      try {
        return await pick(ingests).client.usage.record.mutate({ entries });
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await wait(20 + random() * 80);
      }
    }
  };

  const done = Promise.all(Array.from({ length: WORKERS }, (_, number) => worker(number)));
  return {
    async stop() {
      stopping = true;
      await done;
      return acknowledged;
    },
  };
}
