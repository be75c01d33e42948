import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { cpuSecondsOf } from './cpu.mjs';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures the acceptance of OTLP traces in protobuf: each span is a call of a model, as a library sent it, with its
// prompt and its answer. Everything on one machine, including this generator.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 5);
const SPANS = 512;
const CONNECTIONS = 4;
const SPAN_ID = 2;
const START = 7;

const sent = await readFile(new URL('../apps/usage-ingest/test/fixtures/otlp/traceloop.pb', import.meta.url));
const now = Buffer.alloc(8);
now.writeBigUInt64LE(BigInt(Date.now()) * 1_000_000n);
const span = firstSpan(sent);

const rows = await withServers((servers) =>
  withService('usage-ingest', servers, { ENABLE_FLUSH: 'false' }, async ({ port, pid }) => {
    await load(port, performance.now() + 1_500);
    // CPU time of the service shows whether the service or the machine is slow.
    const cpuBefore = cpuSecondsOf(pid);
    const started = performance.now();
    const { requests, bytes } = await load(port, started + SECONDS * 1_000);
    const seconds = (performance.now() - started) / 1_000;
    return [
      {
        what: `OTLP traces, protobuf, ${SPANS} spans a request of ${Math.round(bytes / requests / 1024)} KiB`,
        'spans per second': Math.round((requests * SPANS) / seconds),
        'spans per second of CPU time': Math.round((requests * SPANS) / (cpuSecondsOf(pid) - cpuBefore)),
      },
    ];
  }),
);
console.log(machine());
console.table(rows);

async function load(port, until) {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  let [requests, bytes] = [0, 0];
  const sender = async () => {
    while (performance.now() < until) {
      const body = bodyOf();
      await send(port, agent, body);
      requests++;
      bytes += body.length;
    }
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, sender));
  agent.destroy();
  return { requests, bytes };
}

function send(port, agent, body) {
  const headers = {
    authorization: `Bearer ${KEY}`,
    'content-type': 'application/x-protobuf',
    'content-length': body.length,
  };
  return new Promise((resolve, reject) => {
    const call = request(
      { port, host: '127.0.0.1', path: '/v1/traces', method: 'POST', agent, headers },
      (response) => {
        const parts = [];
        response.on('data', (part) => parts.push(part));
        response.on('end', () => {
          const answer = Buffer.concat(parts);
          if (response.statusCode === 200 && answer.length === 0) resolve();
          else reject(new Error(`${response.statusCode} ${answer}`));
        });
      },
    );
    call.on('error', reject);
    call.end(body);
  });
}

/** A request of spans that differ in their ids. */
function bodyOf() {
  const spans = Array.from({ length: SPANS }, () => {
    const own = Buffer.from(span.bytes);
    randomBytes(8).copy(own, span.idAt);
    return own;
  });
  const resource = field(
    1,
    field(1, Buffer.concat([field(1, Buffer.from('service.name')), field(2, field(1, Buffer.from('bench')))])),
  );
  return field(1, Buffer.concat([resource, field(2, Buffer.concat(spans))]));
}

function field(number, bytes) {
  const head = [number * 8 + 2];
  let rest = bytes.length;
  for (; rest >= 128; rest = Math.floor(rest / 128)) head.push((rest % 128) + 128);
  return Buffer.concat([Buffer.from([...head, rest]), bytes]);
}

/**
 * Returns the first span of a recorded request as a field of its scope, with its start set to now, and the position of
 * its id.
 */
function firstSpan(body) {
  const inside = (bytes, number) => {
    const { from, to } = placeOf(bytes, number);
    return bytes.subarray(from, to);
  };
  const own = Buffer.from(inside(inside(inside(body, 1), 2), 2));
  now.copy(own, placeOf(own, START).from);
  const bytes = field(2, own);
  return { bytes, idAt: bytes.length - own.length + placeOf(own, SPAN_ID).from };
}

/** Returns the position of the first field with this number in a message. */
function placeOf(bytes, number) {
  for (let at = 0; at < bytes.length; ) {
    const [tag, afterTag] = varint(bytes, at);
    const type = tag % 8;
    const [value, next] = type === 1 ? [8, afterTag] : varint(bytes, afterTag);
    const to = type === 0 ? next : next + value;
    if (Math.floor(tag / 8) === number) return { from: next, to };
    at = to;
  }
  throw new Error(`There is no field ${number}.`);
}

function varint(bytes, start) {
  let [value, factor, at] = [0, 1, start];
  for (; bytes[at] >= 128; at++, factor *= 128) value += (bytes[at] - 128) * factor;
  return [value + bytes[at] * factor, at + 1];
}
