import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
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

/**
 * Sends as fast as the answers come, over kept connections, for the time of one measurement: the bodies of `bodyOf` to one
 * path, or the calls of `callOf`, each to its own. With `callsPerSecond` calls are
 * due at that rate, and their times count from then on, so that a stall counts for all calls that it delays. It ends after
 * `most` calls if these come first.
 */
export async function load({
  port,
  path,
  bodyOf,
  callOf,
  connections,
  seconds,
  warmUpMs = 1500,
  callsPerSecond,
  most = Infinity,
}) {
  const headOf = (to) =>
    `POST ${to} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ${KEY}\r\ncontent-type: application/json\r\n`;
  const next = callOf ?? (() => ({ path, body: bodyOf() }));
  const lines = await Promise.all(Array.from({ length: connections }, () => open(port)));
  const send = (line, { path: to, body }) =>
    line(`${headOf(to)}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  const times = [];
  const run = async (until, count) => {
    let [calls, taken] = [0, 0];
    const begun = performance.now();
    const nextDue = () => (callsPerSecond ? begun + (taken++ * 1000) / callsPerSecond : performance.now());
    await Promise.all(
      lines.map(async (line) => {
        for (let due = nextDue(); due < until && calls < most; due = nextDue()) {
          calls++;
          const call = next();
          // Timers have whole milliseconds, so a call starts up to one before it is due, and counts from then on.
          const early = Math.floor(due - performance.now());
          if (early > 0) await wait(early);
          const started = callsPerSecond ? Math.min(due, performance.now()) : performance.now();
          await send(line, call);
          if (count) times.push(performance.now() - started);
        }
      }),
    );
    return calls;
  };
  await run(performance.now() + warmUpMs, false);
  const started = performance.now();
  const calls = await run(started + seconds * 1000, true);
  const took = (performance.now() - started) / 1000;
  for (const line of lines) line.close();
  times.sort((a, b) => a - b);
  const at = (share) => Number(times[Math.floor(times.length * share)]?.toFixed(2));
  return { calls, seconds: took, latencies: { 'p50 ms': at(0.5), 'p99 ms': at(0.99) } };
}

/**
 * A kept connection that sends requests one after the other. Node's own client costs more than the service that is
 * measured; answers have a content-length here.
 */
async function open(port) {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  await once(socket, 'connect');
  let settle;
  let received = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk) => {
    received += chunk;
    const end = received.indexOf('\r\n\r\n');
    if (end < 0) return;
    const length = /\r\ncontent-length: (\d+)/i.exec(received)?.[1];
    if (length === undefined) return settle?.reject(new Error(`no content-length in ${received}`));
    if (received.length < end + 4 + Number(length)) return;
    const status = received.slice(9, 12);
    const answer = received;
    received = '';
    if (status === '200') settle.resolve();
    else settle.reject(new Error(answer));
  });
  socket.on('close', () => settle?.reject(new Error('the connection was closed')));
  const send = (text) =>
    new Promise((resolve, reject) => {
      settle = { resolve, reject };
      socket.write(text);
    });
  return Object.assign(send, { close: () => socket.destroy() });
}
