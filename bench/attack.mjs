import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { gzipSync } from 'node:zlib';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures what attackers cost everybody else. One caller makes a call every 10 ms, alone and under each attack; the
// table has the p99 of both, the longest stall of the event loop (time on a core, see stall-probe.mjs), and the most
// memory the service took. All on this machine. BENCH_SECONDS (6): length of each attack.
const SECONDS = Number(process.env.BENCH_SECONDS ?? 6);
const MIB = 2 ** 20;
const GAP_MS = 10;

function recordCall({ url }, key) {
  let number = 0;
  const session = randomBytes(4).toString('hex');
  return () =>
    fetch(`${url}/trpc/usage.record`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ entries: [{ id: `${session}-${number++}`, merchantId: 'v', metrics: { queries: '1' } }] }),
    });
}

function readCall({ url }, key) {
  const today = new Date().toISOString().slice(0, 10);
  const input = encodeURIComponent(JSON.stringify({ startDate: today, endDate: today }));
  return () =>
    fetch(`${url}/trpc/analytics.filterOptions?input=${input}`, { headers: { authorization: `Bearer ${key}` } });
}

async function measure(name, service, call, keys) {
  await during(service, call, wait(2_000));
  const quiet = await during(service, call, wait(SECONDS * 1000));
  const began = Date.now();
  // In a thread of its own, so that the measured caller waits only for the service.
  const attacker = new Worker(new URL(import.meta.url), {
    workerData: { name, service: { port: service.port, url: service.url }, keys },
  });
  const attacked = await during(service, call, wait(SECONDS * 1000));
  const stall = longestStall(service, began);
  attacker.postMessage('end');
  await once(attacker, 'exit');
  await wait(1_000);
  return {
    'quiet p99 ms': quiet.p99,
    'attacked p99 ms': attacked.p99,
    ratio: Number((attacked.p99 / quiet.p99).toFixed(1)),
    failed: `${attacked.failed} of ${attacked.calls}`,
    'stall ms': stall,
    'MiB before': quiet.memory,
    'most MiB': attacked.memory,
  };
}

/** The other thread: attacks until it is stopped, and then closes its connections. */
async function attackUntilTold({ name, service, keys }) {
  const told = once(parentPort, 'message');
  const sockets = await ATTACKS.find((each) => each.name === name).attack(service, keys);
  await told;
  for (const socket of sockets) socket.destroy?.();
  parentPort.close();
}

/** Calls at a steady rate until `until` resolves; latencies from the intended start of each. */
async function during({ pid }, call, until) {
  const times = [];
  let failed = 0;
  let memory = 0;
  let open = true;
  void until.then(() => (open = false));
  const calls = [];
  for (let next = performance.now(); open; next += GAP_MS) {
    if (next > performance.now()) await wait(next - performance.now());
    const intended = next;
    memory = Math.max(memory, memoryOf(pid));
    calls.push(
      call().then(
        async (response) => {
          await response.arrayBuffer();
          times.push(performance.now() - intended);
          if (!response.ok) failed++;
        },
        () => failed++,
      ),
    );
  }
  await Promise.all(calls);
  times.sort((a, b) => a - b);
  return { p99: Number(times[Math.floor(times.length * 0.99)]?.toFixed(1)), failed, calls: calls.length, memory };
}

const memoryOf = (pid) =>
  Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024);

/** Returns the longest stall since a time, in ms; 0 if none was long. */
const longestStall = ({ stalls }, since) =>
  Math.max(
    0,
    ...readFileSync(stalls, 'utf8')
      .split('\n')
      .map((line) => line.split(' ').map(Number))
      .flatMap(([at, ms]) => (at >= since ? [ms] : [])),
  );

/** Opens a connection that has sent `text`; drops the answer. */
async function send({ port }, ...texts) {
  const socket = connect({ port, host: '127.0.0.1' });
  socket.on('error', () => {});
  socket.on('data', () => {});
  await Promise.race([once(socket, 'connect'), once(socket, 'error')]).catch(() => {});
  for (const text of texts) {
    if (socket.destroyed) break;
    if (!socket.write(text))
      await Promise.race([once(socket, 'drain'), once(socket, 'close'), wait(2_000)]).catch(() => {});
  }
  return socket;
}

const many = (count, make) => Promise.all(Array.from({ length: count }, (_, index) => make(index)));
const head = (path, lines) => `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${lines}\r\n`;
const bearer = (key) => `authorization: Bearer ${key}\r\n`;
const whole = (path, key, body) => [head(path, `${bearer(key)}content-length: ${body.length}\r\n`), body];

const BODY = Buffer.alloc(8 * MIB - 1, 0x20);
const CHUNK = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(MIB, 0x20), Buffer.from('\r\n')]);
const ONES = Buffer.from(`[${'1,'.repeat(8 * MIB - 8)}1]`);
const NESTED = Buffer.from(`{"entries":${'['.repeat(500_000)}${']'.repeat(500_000)}}`);
const FIELDS = Buffer.from(
  `{"entries":[{${Array.from({ length: 60_000 }, (_, index) => `"field${index}":1`).join(',')}}]}`,
);
const DEEP = Buffer.from(`{"entries":${'['.repeat(60_000)}${']'.repeat(60_000)}}`);
const LONG_TEXT = Buffer.from(`{"id":"one","messages":"${'a'.repeat(15 * MIB)}"}`);
const ENTRIES = Buffer.from(
  JSON.stringify({
    entries: Array.from({ length: 1_000 }, (_, index) => ({
      id: `${index}-${'i'.repeat(100)}`,
      merchantId: `m${index}`,
      metrics: Object.fromEntries(Array.from({ length: 10 }, (__, metric) => [`metric_${metric}`, '1'])),
      properties: Object.fromEntries(Array.from({ length: 8 }, (__, name) => [`name_${name}`, 'v'.repeat(200)])),
    })),
  }),
);
const BOMB = gzipSync(Buffer.alloc(512 * MIB, 0x20));
const RECORD = '/trpc/usage.record';
const LOGS = '/sources/litellm/logs';

const ATTACKS = [
  {
    name: '64 bodies withheld, no key',
    of: 'ingest',
    attack: (to) => many(64, () => send(to, head(RECORD, `content-length: ${8 * MIB}\r\n`), BODY)),
  },
  {
    name: '64 bodies withheld, one key',
    of: 'ingest',
    attack: (to, { attacker }) =>
      many(64, () => send(to, head(RECORD, `${bearer(attacker)}content-length: ${8 * MIB}\r\n`), BODY)),
  },
  {
    name: '100 × 7 MiB chunked to an unknown path, no key',
    of: 'ingest',
    attack: (to) =>
      many(100, () => send(to, head('/nothing', 'transfer-encoding: chunked\r\n'), ...Array(7).fill(CHUNK))),
  },
  {
    name: '100 × 7 MiB chunked, one key',
    of: 'ingest',
    attack: (to, { attacker }) =>
      many(100, () =>
        send(to, head(RECORD, `${bearer(attacker)}transfer-encoding: chunked\r\n`), ...Array(7).fill(CHUNK)),
      ),
  },
  {
    name: '20 gzip bombs of 512 MiB, one key',
    of: 'ingest',
    attack: (to, { attacker }) =>
      many(20, () =>
        send(to, head(RECORD, `${bearer(attacker)}content-encoding: gzip\r\ncontent-length: ${BOMB.length}\r\n`), BOMB),
      ),
  },
  {
    name: '50 bodies nested 500,000 deep, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(50, () => send(to, ...whole(RECORD, attacker, NESTED))),
  },
  {
    name: '50 events of 60,000 fields, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(50, () => send(to, ...whole(RECORD, attacker, FIELDS))),
  },
  {
    name: '100 bodies of 120 kB nested 60,000 deep, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(100, () => send(to, ...whole(RECORD, attacker, DEEP))),
  },
  {
    name: '50 large batches of good events, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(50, () => send(to, ...whole(RECORD, attacker, ENTRIES))),
  },
  {
    name: '4 items of 15 MiB, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(4, () => send(to, ...whole(LOGS, attacker, LONG_TEXT))),
  },
  {
    name: '4 arrays of 8 million numbers, one key',
    of: 'ingest',
    attack: (to, { attacker }) => many(4, () => send(to, ...whole(LOGS, attacker, ONES))),
  },
  {
    name: '4,000 made-up paths of 12 kB, no key',
    of: 'analytics',
    attack: (to) =>
      many(8, async () => {
        for (let call = 0; call < 500; call++) {
          const path = `/trpc/${randomBytes(6_000).toString('hex')}`;
          await fetch(`${to.url}${path}`, { method: 'PUT' }).then(
            (answer) => answer.arrayBuffer(),
            () => {},
          );
        }
        return {};
      }),
  },
  {
    name: 'made-up keys, as fast as 8 connections go',
    of: 'ingest',
    attack: (to) =>
      many(8, async () => {
        for (const end = performance.now() + SECONDS * 1000; performance.now() < end; ) {
          const headers = { authorization: `Bearer ${randomBytes(24).toString('hex')}` };
          await fetch(`${to.url}/trpc/flush.status`, { headers }).then(
            (answer) => answer.arrayBuffer(),
            () => {},
          );
        }
        return {};
      }),
  },
];

if (isMainThread) await run();
else await attackUntilTold(workerData);

async function run() {
  const folder = await mkdtemp(join(tmpdir(), 'tally-attack-'));
  const probed = (app, servers, settings, work) => {
    const stalls = join(folder, app);
    writeFileSync(stalls, '');
    const nodeArgs = ['--import', new URL('stall-probe.mjs', import.meta.url).href];
    return withService(app, servers, { ...settings, STALL_FILE: stalls, nodeArgs }, (service) =>
      work({ ...service, stalls }),
    );
  };
  const results = await withServers((servers) =>
    probed('usage-ingest', servers, {}, (ingest) =>
      probed(
        'analytics-api',
        servers,
        { USAGE_INGEST_URL: ingest.url, ADMIN_ANALYTICS_RATE_LIMIT: '1000000' },
        (analytics) => attackEach(ingest, analytics),
      ),
    ),
  );
  await rm(folder, { recursive: true });
  console.log(machine());
  console.table(results);
  const report = { machine: machine(), date: new Date().toISOString().slice(0, 10), seconds: SECONDS, rows: results };
  await writeFile(new URL('results/attack.json', import.meta.url), `${JSON.stringify(report, null, 2)}\n`);
}

async function attackEach(ingest, analytics) {
  const admin = createIngestClient({ url: ingest.url, key: KEY });
  const key = async (name, role) => (await admin.keys.create.mutate({ name, role })).key;
  const keys = { victim: await key('victim', 'producer'), attacker: await key('attacker', 'producer') };
  const reader = await key('reader', 'viewer');
  const rows = [];
  for (const { name, of } of ATTACKS) {
    const service = of === 'analytics' ? analytics : ingest;
    const call = of === 'analytics' ? readCall(service, reader) : recordCall(service, keys.victim);
    rows.push({ attack: name, service: of, ...(await measure(name, service, call, keys)) });
    console.table([rows.at(-1)]);
  }
  return rows;
}
