import { Agent, request } from 'node:http';
import { KEY } from './servers.mjs';

/** Makes bodies of `usage.record`, each with ids of its own. */
export function bodies({ batch, merchants, prefix = 'bench' }) {
  let number = 0;
  const time = new Date().toISOString();
  const session = Math.random().toString(36).slice(2, 8);
  // Only the ids differ from body to body, so that this generator costs little beside the service.
  const template = JSON.stringify({
    entries: Array.from({ length: batch }, (_, index) => ({
      id: `#${index}`,
      merchantId: `${prefix}-${batch}-${index % merchants}`,
      time,
      userId: `user-${index % 100}`,
      apiKey: `key-${index % 10}`,
      model: ['gpt-4o', 'gpt-4o-mini', 'claude-sonnet'][index % 3],
      provider: 'openai',
      metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
    })),
  });
  return () => template.replaceAll('"id":"#', `"id":"${session}-${number++}-`);
}

/** Sends as fast as the answers come, over kept connections, for the time of one measurement. */
export async function load({ port, path, bodyOf, connections, seconds, warmUpMs = 1500 }) {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
  const send = (body) =>
    new Promise((resolve, reject) => {
      const call = request(
        {
          agent,
          port,
          host: '127.0.0.1',
          method: 'POST',
          path,
          headers: { ...headers, 'content-length': Buffer.byteLength(body) },
        },
        (response) => {
          response.resume();
          response.on('end', () =>
            response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)),
          );
        },
      );
      call.on('error', reject);
      call.end(body);
    });
  const times = [];
  const run = async (until, count) => {
    let calls = 0;
    await Promise.all(
      Array.from({ length: connections }, async () => {
        while (performance.now() < until) {
          const body = bodyOf();
          const started = performance.now();
          await send(body);
          if (count) times.push(performance.now() - started);
          calls++;
        }
      }),
    );
    return calls;
  };
  await run(performance.now() + warmUpMs, false);
  const started = performance.now();
  const calls = await run(started + seconds * 1000, true);
  const took = (performance.now() - started) / 1000;
  agent.destroy();
  times.sort((a, b) => a - b);
  const at = (share) => Number(times[Math.floor(times.length * share)]?.toFixed(2));
  return { calls, seconds: took, latencies: { 'p50 ms': at(0.5), 'p99 ms': at(0.99) } };
}
