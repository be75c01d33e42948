import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { gzipSync } from 'node:zlib';
import { dayOf, ERRORS } from '@tally/contracts';
import { createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, type ServiceProcess, startServiceProcess, until } from '@tally/testkit';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

/** Attacks on all services: an attacker costs others nothing, gets a clear error, and never makes a service fail. */
const KEY = 'the-admin-key-of-the-attack';
const TODAY = dayOf(Date.now());
const MIB = 2 ** 20;
const SERVICES = ['usage-ingest', 'metrics-engine', 'analytics-api'] as const;
type Name = (typeof SERVICES)[number];

/** For each service: a procedure with a body, other paths, and a call of ordinary callers. */
const KNOWN: Record<Name, { mutation: string; paths: string[]; call: [path: string, input: object] }> = {
  'usage-ingest': {
    mutation: '/trpc/usage.record',
    paths: ['/trpc/keys.create', '/trpc/usage.record,usage.track?batch=1', '/sources/litellm/logs'],
    call: ['usage.current', { merchantId: 'bystander' }],
  },
  'metrics-engine': {
    mutation: '/trpc/realtime.increment',
    paths: ['/api/admin/metrics/custom-definitions', '/api/admin/metrics/calculate'],
    call: ['realtime.list', { merchantId: 'bystander' }],
  },
  'analytics-api': {
    mutation: '/trpc/directory.upsert',
    paths: ['/sources/litellm/logs', '/api/v1/admin/usage/analytics', '/export/usage.csv'],
    call: ['analytics.filterOptions', { startDate: TODAY, endDate: TODAY }],
  },
};

let services: Record<Name, ServiceProcess>;
let keys: { attacker: string; bystander: string };
let releases: (() => Promise<unknown>)[] = [];
const sockets: Socket[] = [];

beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const env = {
    DATABASE_URL: database.url,
    REDIS_URL: redis.url,
    TALLY_ADMIN_KEY: KEY,
    ADMIN_ANALYTICS_RATE_LIMIT: '100000',
    MAX_CONNECTIONS: '300',
    BODY_PROGRESS_MS: '2000',
    LOG_LEVEL: 'fatal',
  };
  const ingest = await startServiceProcess('usage-ingest', env);
  const rest = { ...env, USAGE_INGEST_URL: ingest.url, ENABLE_METRICS_SCHEDULER: 'false' };
  services = {
    'usage-ingest': ingest,
    'metrics-engine': await startServiceProcess('metrics-engine', rest),
    'analytics-api': await startServiceProcess('analytics-api', rest),
  };
  releases = [...Object.values(services).map((service) => () => service.stop()), database.drop, redis.drop];
  const { create } = createIngestClient({ url: ingest.url, key: KEY }).keys;
  const made = await Promise.all(
    ['attacker', 'bystander'].map((name) => create.mutate({ name, role: 'admin', merchantId: name })),
  );
  keys = { attacker: made[0]!.key, bystander: made[1]!.key };
});

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

afterAll(async () => {
  for (const release of releases) await release();
});

type Connection = { socket: Socket; answer(): string; closed: Promise<void> };

async function open(name: Name, ...parts: (string | Buffer)[]): Promise<Connection> {
  const socket = connect(Number(new URL(services[name].url).port), '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => {});
  let answer = '';
  socket.on('data', (chunk) => {
    answer += chunk.toString('latin1');
  });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  for (const part of parts) socket.write(part);
  return { socket, answer: () => answer, closed };
}

const head = (method: string, path: string, lines: string[] = []) =>
  [`${method} ${path} HTTP/1.1`, 'host: x', 'content-type: application/json', ...lines, '', ''].join('\r\n');
const bearer = (key: string) => `authorization: Bearer ${key}`;

async function statusOf({ socket, answer }: Connection): Promise<number> {
  while (!/^HTTP\/1\.1 \d{3}/.test(answer())) await once(socket, 'data');
  return Number(answer().slice(9, 12));
}

/** Calls of ordinary callers, of all services. */
async function bystander(): Promise<number[]> {
  const statuses: number[] = [];
  for (const name of SERVICES) {
    const [path, input] = KNOWN[name].call;
    const url = `${services[name].url}/trpc/${path}?input=${encodeURIComponent(JSON.stringify(input))}`;
    const { status } = await fetch(url, { headers: { authorization: `Bearer ${keys.bystander}` } });
    statuses.push(status);
  }
  return statuses;
}

async function refused(response: Response): Promise<string> {
  const body = (await response.json()) as { error: { data: { code: string; action: string } } };
  expect(Object.keys(ERRORS)).toContain(body.error.data.code);
  expect(body.error.data.action).toEqual(expect.any(String));
  return body.error.data.code;
}

const post = (name: Name, path: string, body: string | Uint8Array, headers: Record<string, string> = {}) =>
  fetch(`${services[name].url}${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${keys.attacker}`, 'content-type': 'application/json', ...headers },
    body: body as RequestInit['body'],
  });

async function metric(name: Name, metricName: string): Promise<number> {
  const text = await metricsOf(name);
  return Number(new RegExp(`^${metricName} (\\S+)$`, 'm').exec(text)?.[1]);
}

async function metricsOf(name: Name): Promise<string> {
  const response = await fetch(`${services[name].url}/metrics`, { headers: { authorization: `Bearer ${KEY}` } });
  expect(response.status).toBe(200);
  return response.text();
}

test.each(SERVICES)('%s answers a caller without a key before its body has come, on every path', async (name) => {
  const { mutation, paths } = KNOWN[name];
  for (const path of [mutation, ...paths, '/nothing', '/trpc/nothing', '/', '/livez', '/metrics']) {
    for (const coding of ['content-length: 8388607', 'transfer-encoding: chunked']) {
      for (const lines of [[coding], [coding, 'content-encoding: gzip'], [coding, bearer('made-up-key-of-nobody')]]) {
        const connection = await open(name, head('POST', path, lines));
        expect([path, await statusOf(connection)]).toEqual([path, expect.toSatisfy((s) => s >= 401 && s < 500)]);
        connection.socket.destroy();
      }
    }
  }
  expect(await metric(name, 'tally_http_body_bytes')).toBe(0);
});

test.each(SERVICES)('%s serves others while 100 callers without a key withhold their bodies', async (name) => {
  const body = Buffer.alloc(64 * 1024, 0x20);
  for (let index = 0; index < 100; index++) {
    await open(name, head('POST', KNOWN[name].mutation, ['content-length: 8388607']), body);
  }
  expect(await bystander()).toEqual([200, 200, 200]);
  expect(await metric(name, 'tally_http_body_bytes')).toBe(0);
});

test.each(SERVICES)('%s serves others while one caller withholds 100 bodies, and ends those', async (name) => {
  const connections = [];
  for (let index = 0; index < 100; index++) {
    const lines = ['content-length: 8388607', bearer(keys.attacker)];
    connections.push(await open(name, head('POST', KNOWN[name].mutation, lines), Buffer.alloc(MIB, 0x20)));
  }
  expect(await bystander()).toEqual([200, 200, 200]);
  // At most a quarter of the budget is for one caller.
  expect(await metric(name, 'tally_http_body_bytes')).toBeLessThanOrEqual(32 * MIB);
  const statuses = await Promise.all(connections.map(statusOf));
  expect(statuses.filter((status) => ![408, 429, 503].includes(status))).toEqual([]);
  expect(statuses).toContain(408);
  await Promise.all(connections.map(({ closed }) => closed));
  expect(await metric(name, 'tally_http_body_bytes')).toBe(0);
  expect(await bystander()).toEqual([200, 200, 200]);
});

test.each(SERVICES)('%s bounds a chunked body and an inflated one', async (name) => {
  const chunk = Buffer.concat([Buffer.from('100000\r\n'), Buffer.alloc(MIB, 0x20), Buffer.from('\r\n')]);
  const endless = await open(
    name,
    head('POST', KNOWN[name].mutation, ['transfer-encoding: chunked', bearer(keys.attacker)]),
    ...Array<Buffer>(9).fill(chunk),
  );
  expect(await statusOf(endless)).toBe(413);
  const bomb = gzipSync(Buffer.alloc(64 * MIB, 0x20));
  const inflated = await post(name, KNOWN[name].mutation, bomb, { 'content-encoding': 'gzip' });
  expect([inflated.status, await refused(inflated)]).toEqual([413, 'BODY_TOO_LARGE']);
  const unknown = await post(name, KNOWN[name].mutation, '{}', { 'content-encoding': 'br' });
  expect([unknown.status, await refused(unknown)]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE']);
  expect(await metric(name, 'tally_http_body_bytes')).toBe(0);
});

test.each(SERVICES)('%s refuses deep, long and wide JSON, and goes on', async (name) => {
  const { mutation } = KNOWN[name];
  const hostile = [
    `${'['.repeat(500_000)}${']'.repeat(500_000)}`,
    `{"entries":${'['.repeat(200_000)}${']'.repeat(200_000)}}`,
    `[${'1,'.repeat(2_000_000)}1]`,
    `{${Array.from({ length: 90_000 }, (_, index) => `"f${index}":1`).join(',')}}`,
    `{"entries":[${'{},'.repeat(100_000)}{}]}`,
    `{"a":"${'\\'.repeat(100_000)}`,
    '{"a":',
    '\ufeff{}',
    'null',
    '"x"',
  ];
  const paths = name === 'metrics-engine' ? [mutation] : [mutation, '/sources/litellm/logs'];
  for (const path of paths) {
    for (const body of hostile) {
      const response = await post(name, path, body);
      expect([path, body.slice(0, 20), response.status]).toEqual([
        path,
        body.slice(0, 20),
        expect.toSatisfy((status) => status >= 200 && status < 500),
      ]);
      if (response.status >= 400) await refused(response);
    }
  }
  expect(await bystander()).toEqual([200, 200, 200]);
});

test.each(SERVICES)('%s makes no metric of what callers invent', async (name) => {
  // Some of Node's own metrics come and go with its activity. A caller who leaves at once may have had an answer or not,
  // so one route may get any of few statuses.
  const series = async () => {
    const lines = (await metricsOf(name)).split('\n').filter((line) => line.startsWith('tally_http_'));
    return [...new Set(lines.map((line) => line.replace(/ \S+$/, '').replace(/status="\d+"/, '')))].sort();
  };
  const flood = async (mark: string) => {
    const ways: [method: string, path: string, headers: Record<string, string>, body?: string][] = [
      ['GET', `/${mark}`, {}],
      ['POST', `/${mark}`, { 'content-length': '900000000' }],
      ['POST', `/trpc/${mark}`, { 'content-type': 'text/plain' }, 'x'],
      ['PUT', `/trpc/${mark}`, {}, '{}'],
      ['OPTIONS', `/trpc/${mark}`, {}],
      ['DELETE', `/export/${mark}`, {}],
      ['GET', `/trpc/%E0%A4%A${mark}`, {}],
      ['GET', `/trpc/${KNOWN[name].call[0]}/${mark}`, {}],
      ['GET', `/trpc/${KNOWN[name].call[0]}?${mark}=1`, {}],
      ['GET', `/trpc/${mark},${mark}?batch=1`, {}],
      ['GET', `/export/usage.${mark}`, {}],
      ['PATCH', `/api/${mark}`, {}],
    ];
    for (const [method, path, headers, body] of ways) {
      for (const lines of [[], [bearer(keys.attacker)]]) {
        const length = body === undefined ? [] : [`content-length: ${body.length}`];
        const all = Object.entries(headers).map(([field, value]) => `${field}: ${value}`);
        const connection = await open(name, head(method, path, [...all, ...length, ...lines]), body ?? '');
        expect(await statusOf(connection)).toBeLessThan(500);
        connection.socket.destroy();
      }
    }
  };
  await flood(randomBytes(8).toString('hex'));
  // The first scrape creates the series of /metrics itself.
  await series();
  const before = await series();
  const marks = Array.from({ length: 10 }, () => randomBytes(8).toString('hex'));
  for (const mark of marks) await flood(mark);
  expect(await series()).toEqual(before);
  const text = await metricsOf(name);
  expect(marks.filter((mark) => text.includes(mark))).toEqual([]);
});

test.each(SERVICES)('%s knows good keys while made-up keys come by the thousand', async (name) => {
  const [path, input] = KNOWN[name].call;
  const url = `${services[name].url}/trpc/${path}?input=${encodeURIComponent(JSON.stringify(input))}`;
  const seen = new Map<number, number>();
  const flood = Array.from({ length: 8 }, async () => {
    for (let call = 0; call < 250; call++) {
      const authorization = `Bearer ${randomBytes(24).toString('hex')}`;
      const { status } = await fetch(url, { headers: { authorization } });
      seen.set(status, (seen.get(status) ?? 0) + 1);
    }
  });
  for (let call = 0; call < 20; call++) expect(await bystander()).toEqual([200, 200, 200]);
  await Promise.all(flood);
  expect([...seen.keys()].filter((status) => status !== 401 && status !== 429)).toEqual([]);
  expect(seen.get(429)).toBeGreaterThan(0);
  expect(await bystander()).toEqual([200, 200, 200]);
});

test.each(SERVICES)('%s closes what is beyond its connections, and serves others when those are gone', async (name) => {
  const connections = await Promise.all(Array.from({ length: 400 }, () => open(name, 'GET /livez HT')));
  const isClosed = (connection: Connection) => connection.socket.closed || connection.socket.destroyed;
  await until('100 closed connections', () => connections.filter(isClosed).length >= 100);
  for (const { socket } of connections) socket.destroy();
  await Promise.all(connections.map(({ closed }) => closed));
  await until('others to be served', () =>
    bystander().then(
      (statuses) => statuses.every((status) => status === 200),
      () => false,
    ),
  );
});

test.each(SERVICES)('%s bounds the calls of one batch', async (name) => {
  const [path, input] = KNOWN[name].call;
  const calls = 200;
  const inputs = JSON.stringify(Object.fromEntries(Array.from({ length: calls }, (_, index) => [index, input])));
  const names = Array(calls).fill(path).join(',');
  const response = await fetch(`${services[name].url}/trpc/${names}?batch=1&input=${encodeURIComponent(inputs)}`, {
    headers: { authorization: `Bearer ${keys.attacker}` },
  });
  expect(response.status).toBeGreaterThanOrEqual(400);
  expect(response.status).toBeLessThan(500);
});
