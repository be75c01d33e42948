import { once } from 'node:events';
import { get, type IncomingMessage } from 'node:http';
import { constants, gunzipSync } from 'node:zlib';
import { createLog } from '@tally/service';
import { type Relay, startRelay } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from '../../test/start.ts';
import { createDownloads } from './downloads.ts';

let running: Running;
let sql: pg.Client;
/** A relay to the database, and the address of the database through it. */
let relay: Relay;
let relayed: string;
const stops: (() => Promise<unknown>)[] = [];
const RANGE = 'startDate=2026-01-01&endDate=2026-01-31';
const ROWS = 120_000;

beforeAll(async () => {
  running = await startAnalytics({ ADMIN_EXPORT_RATE_LIMIT: '1000000', FRESHNESS_TIMEOUT_MS: '1000' });
  sql = new pg.Client({ connectionString: running.databaseUrl });
  await sql.connect();
  const address = new URL(running.databaseUrl);
  relay = await startRelay({ host: address.hostname, port: Number(address.port) });
  address.host = `127.0.0.1:${relay.port}`;
  relayed = address.toString();
  await sql.query(
    `insert into usage_daily (merchant_id, date, user_id, api_key, model, provider, requests, failed_requests,
       prompt_tokens, completion_tokens, cost)
     select 'acme', '2026-01-01'::date + n % 31, md5(n::text) || md5(n::text || 'b') || md5(n::text || 'c'), '', 'm', 'p', 1, 0, 1, 1, 1
     from generate_series(1, ${ROWS}) as n`,
  );
});
afterAll(async () => {
  for (const stop of stops) await stop();
  await sql.end();
  await running.stop();
  relay.close();
});

/** Starts an analytics-api with settings of its own; returns its address. */
async function listening(settings: Record<string, string>): Promise<{ port: number; ask: () => Promise<unknown> }> {
  const { app, client } = await running.another(settings);
  const { port, stop } = await app.listen({ host: '127.0.0.1', port: 0 });
  stops.push(stop);
  const ask = () =>
    client.analytics.breakdown.query({ startDate: '2026-01-01', endDate: '2026-01-01', by: 'model', limit: 1 });
  return { port, ask };
}

/** Begins a download and stops reading after its first bytes. */
async function begin(port: number, path: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const request = get({ port, path, agent: false, headers: { authorization: `Bearer ${KEY}`, ...headers } });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  if (response.statusCode === 200) {
    await once(response, 'readable');
    response.pause();
  }
  return response;
}

/** Reads to the end, whether complete or not. */
async function rest(response: IncomingMessage): Promise<{ text: string; whole: boolean }> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response) chunks.push(chunk as Buffer);
  } catch (error) {
    expect(error).toMatchObject({ code: 'ECONNRESET' });
  }
  const bytes = Buffer.concat(chunks);
  const isGzip = response.headers['content-encoding'] === 'gzip';
  const text = isGzip ? gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }) : bytes;
  return { text: text.toString(), whole: response.complete };
}

/** Returns the statuses that exports were counted with. */
async function statusesOf(port: number): Promise<string[]> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return [...text.matchAll(/^tally_http_requests_total\{route="\/export.*status="(\d+)"/gm)].map(
    ([, status]) => status!,
  );
}

const asked = (callerId: string) => ({ callerId, url: '/', gzip: false });
const empty = { contentType: 'text/plain', async *write() {} };

async function* endless() {
  for (;;) yield [];
}

const exporting = `
  from pg_stat_activity
  where datname = current_database() and application_name = 'analytics-api' and pid <> pg_backend_pid()
    and state <> 'idle' and query like 'fetch%'`;
const held = async () => Number((await sql.query(`select count(*) as count ${exporting}`)).rows[0].count);

test.each([
  ['csv', 'identity'],
  ['json', 'identity'],
  ['ndjson', 'identity'],
  ['ndjson', 'gzip'],
  ['xlsx', 'gzip'],
])('a %s (%s) that loses its database in the middle is cut off, and does not look whole', async (ending, encoding) => {
  const { port } = await listening({ DATABASE_URL: relayed });
  // The rest of its rows is not even asked for while the connection is ended.
  const { caught } = relay.hold('from export', { after: 5 });
  const response = await begin(port, `/export/usage.${ending}?${RANGE}`, { 'accept-encoding': encoding });
  expect(response.statusCode).toBe(200);
  await caught;
  const { rowCount } = await sql.query(`select pg_terminate_backend(pid) ${exporting}`);
  expect(rowCount).toBe(1);
  const { text, whole } = await rest(response);
  expect(whole).toBe(false);
  expect(text).not.toContain('terminat');
  if (ending === 'json') expect(() => JSON.parse(text)).toThrow();
  if (ending === 'ndjson') {
    const last = text.trimEnd().split('\n').at(-1)!;
    expect(JSON.parse(last)).toMatchObject({ error: { data: { code: 'UNAVAILABLE' } } });
  }
});

test('a reader that stalls is ended, and holds no connection meanwhile', async () => {
  const { port } = await listening({ EXPORT_STALL_MS: '300' });
  const response = await begin(port, `/export/usage.csv?${RANGE}`);
  await expect.poll(held).toBe(0);
  expect((await rest(response)).whole).toBe(false);
  // It is the reader's fault, so it is no error of the service.
  await expect.poll(() => statusesOf(port)).toEqual(['499']);
});

test('a download that nobody reads gives its place back', async () => {
  const downloads = createDownloads({
    queue: (_, work) => work(),
    ...{ atOnce: 1, maxBytes: 1e6, stallMs: 200, keepMs: 1000, log: createLog('test', 'silent') },
  });
  const open = () => downloads.open(asked('caller'), { columns: [], rows: endless() }, empty, {});
  await open();
  await expect(open()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await expect
    .poll(
      () =>
        open().then(
          () => 'open',
          () => 'refused',
        ),
      { timeout: 20_000 },
    )
    .toBe('open');
});

test('one caller has a quarter of the places, and others have theirs', async () => {
  const downloads = createDownloads({
    queue: (_, work) => work(),
    ...{ atOnce: 8, maxBytes: 1e6, stallMs: 20_000, keepMs: 1000, log: createLog('test', 'silent') },
  });
  const open = async (callerId: string) =>
    (await downloads.open(asked(callerId), { columns: [], rows: endless() }, empty, {})).body;
  const [first, , third] = await Promise.allSettled([open('eve'), open('eve'), open('eve')]);
  expect(third).toMatchObject({ reason: { code: 'RATE_LIMITED', details: { retryAfter: 5 } } });
  await (await open('bob')).cancel();
  await (first as PromiseFulfilledResult<ReadableStream>).value.cancel();
  await (await open('eve')).cancel();
});

test('a HEAD of an export holds no connection', async () => {
  const { port } = await listening({ EXPORTS_AT_ONCE: '1', EXPORT_STALL_MS: '30000' });
  const path = `http://127.0.0.1:${port}/export/usage.csv?${RANGE}`;
  const headers = { authorization: `Bearer ${KEY}` };
  for (let call = 0; call < 3; call++) expect((await fetch(path, { method: 'HEAD', headers })).status).toBe(200);
  await expect.poll(held).toBe(0);
});

test('a reader that goes on reading gets the whole file, compressed where it takes that', async () => {
  const { port } = await listening({ EXPORT_STALL_MS: '30000' });
  const path = '/export/usage.ndjson?startDate=2026-01-01&endDate=2026-01-06';
  const { rows } = await sql.query(`select count(*)::int as count from usage_daily where date <= '2026-01-06'`);
  const plain = await begin(port, path, { 'accept-encoding': 'gzip;q=0, br' });
  const { text, whole } = await rest(plain);
  expect([whole, plain.headers['content-encoding']]).toEqual([true, undefined]);
  expect(text.trimEnd().split('\n')).toHaveLength(rows[0].count);
  const small = await begin(port, path, { 'accept-encoding': 'br, gzip' });
  expect(small.headers['content-encoding']).toBe('gzip');
  expect(await rest(small)).toEqual({ text, whole: true });
});

test('ten readers that do not read hold no connection, and get their whole files later', async () => {
  const { port, ask } = await listening({ POSTGRES_POOL_SIZE: '4', EXPORTS_AT_ONCE: '9' });
  const path = '/export/usage.csv?startDate=2026-01-01&endDate=2026-01-05';
  const readers = await Promise.all(Array.from({ length: 10 }, () => begin(port, path)));
  expect(readers.map(({ statusCode }) => statusCode)).toEqual(Array.from({ length: 10 }, () => 200));
  await expect.poll(held).toBe(0);
  await ask();
  const files = await Promise.all(readers.map(rest));
  expect(files.every(({ whole }) => whole)).toBe(true);
  expect(new Set(files.map(({ text }) => text)).size).toBe(1);
});

test('an export for which the disk has no room is cut off, and gives its room back', async () => {
  const { port } = await listening({ EXPORT_SPOOL_MB: '1' });
  const large = await begin(port, `/export/usage.csv?${RANGE}`);
  expect((await rest(large)).whole).toBe(false);
  await expect.poll(() => statusesOf(port)).toEqual(['503']);
  const small = await begin(port, '/export/usage.csv?startDate=2026-01-01&endDate=2026-01-01');
  expect((await rest(small)).whole).toBe(true);
});

/** Begins a download, reads some of it, and leaves; returns what it got and the headers. */
async function leaveEarly(port: number, path: string, headers: Record<string, string> = {}) {
  const response = await begin(port, path, headers);
  const etag = String(response.headers.etag);
  // Only a whole file has parts.
  await expect.poll(async () => (await part(port, path, 'bytes=0-0', etag, headers)).response.status).toBe(206);
  const got = response.read(10_000) as Buffer;
  response.destroy();
  return { got, etag, headers: response.headers };
}

/** Asks for a range of a download that began before. */
async function part(port: number, path: string, range: string, etag: string, headers: Record<string, string> = {}) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    headers: { authorization: `Bearer ${KEY}`, 'accept-encoding': 'identity', ...headers, range, 'if-range': etag },
  });
  return { response, bytes: Buffer.from(await response.arrayBuffer()) };
}

test('a download that broke off goes on by range, and makes the same file though usage came meanwhile', async () => {
  const { port } = await listening({});
  const path = '/export/usage.csv?startDate=2026-01-07&endDate=2026-01-12';
  const { got, etag, headers } = await leaveEarly(port, path);
  expect(headers).toMatchObject({ 'accept-ranges': 'bytes', etag: expect.stringMatching(/^"[\w-]{36}"$/) });
  const whole = await rest(await begin(port, path));
  await sql.query(`update usage_daily set requests = requests + 1 where date = '2026-01-12'`);
  const size = Buffer.byteLength(whole.text);
  const tail = await part(port, path, `bytes=${got.length}-`, etag);
  expect(tail.response.status).toBe(206);
  expect(tail.response.headers.get('content-range')).toBe(`bytes ${got.length}-${size - 1}/${size}`);
  expect(tail.response.headers.get('content-length')).toBe(String(size - got.length));
  expect(tail.response.headers.get('content-disposition')).toBe(headers['content-disposition']);
  expect(tail.response.headers.get('x-tally-complete')).toBe(headers['x-tally-complete']);
  expect(Buffer.concat([got, tail.bytes]).toString()).toBe(whole.text);
  const middle = await part(port, path, 'bytes=100-199', etag);
  expect(middle.bytes.toString()).toBe(whole.text.slice(100, 200));
  const end = await part(port, path, 'bytes=-10', etag);
  expect(end.bytes.toString()).toBe(whole.text.slice(-10));
  const beyond = await part(port, path, `bytes=${size}-`, etag);
  expect([beyond.response.status, beyond.response.headers.get('content-range')]).toEqual([416, `bytes */${size}`]);
  expect(JSON.parse(beyond.bytes.toString())).toMatchObject({ error: { data: { code: 'RANGE_NOT_SATISFIABLE' } } });
  const head = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: 'HEAD',
    headers: { authorization: `Bearer ${KEY}`, range: 'bytes=5-', 'if-range': etag, 'accept-encoding': 'identity' },
  });
  expect(head.status).toBe(200);
});

test('a compressed download goes on as the same compressed bytes', async () => {
  const { port } = await listening({});
  const path = '/export/usage.ndjson?startDate=2026-01-07&endDate=2026-01-12';
  const { got, etag } = await leaveEarly(port, path, { 'accept-encoding': 'gzip' });
  const response = await begin(port, path, {
    'accept-encoding': 'gzip',
    range: `bytes=${got.length}-`,
    'if-range': etag,
  });
  expect([response.statusCode, response.headers['content-encoding']]).toEqual([206, 'gzip']);
  const chunks = [got];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const lines = gunzipSync(Buffer.concat(chunks)).toString().trimEnd().split('\n');
  const { rows } = await sql.query(
    `select count(*)::int as count from usage_daily where date between '2026-01-07' and '2026-01-12'`,
  );
  expect(lines).toHaveLength(rows[0].count);
});

test('a range without the ETag of a file that is still there gets the whole file', async () => {
  const { port } = await listening({});
  const path = '/export/usage.csv?startDate=2026-01-07&endDate=2026-01-12';
  const { etag } = await leaveEarly(port, path);
  const key = (await running.ingest.keys.create.mutate({ name: 'another', role: 'viewer' })).key;
  const asked: [string, string, Record<string, string>?][] = [
    [path, '"another"'],
    [path, `W/${etag}`],
    [path, 'Sat, 28 Nov 2026 00:00:00 GMT'],
    ['/export/usage.csv?startDate=2026-01-07&endDate=2026-01-11', etag],
    [path, etag, { 'accept-encoding': 'gzip' }],
    [path, etag, { authorization: `Bearer ${key}` }],
  ];
  for (const [url, tag, headers] of asked) {
    const { response } = await part(port, url, 'bytes=100-', tag, headers);
    expect([response.status, response.headers.get('content-range')]).toEqual([200, null]);
    expect(response.headers.get('etag')).not.toBe(etag);
  }
  const plain = await fetch(`http://127.0.0.1:${port}${path}`, {
    headers: { authorization: `Bearer ${KEY}`, range: 'bytes=100-' },
  });
  expect(plain.status).toBe(200);
  await plain.body?.cancel();
});

test('files that only wait for their readers make room for new exports', async () => {
  const { port } = await listening({ EXPORT_SPOOL_MB: '1' });
  const path = (day: number) => `/export/usage.csv?startDate=2026-01-${day}&endDate=2026-01-${day}`;
  const first = await begin(port, path(10));
  const etag = String(first.headers.etag);
  expect((await rest(first)).whole).toBe(true);
  expect((await part(port, path(10), 'bytes=5-', etag)).response.status).toBe(206);
  for (const day of [11, 12, 13]) expect((await rest(await begin(port, path(day)))).whole).toBe(true);
  const { response } = await part(port, path(10), 'bytes=5-', etag);
  expect(response.status).toBe(200);
});

test('an export that fails before its first row has a status of its own', async () => {
  const { port } = await listening({ ANALYTICS_MAX_DAYS: '10', EXPORT_MAX_DAYS: '10' });
  const response = await begin(port, `/export/usage.csv?${RANGE}`);
  expect(response.statusCode).toBe(400);
  expect(JSON.parse((await rest(response)).text)).toMatchObject({ error: { data: { code: 'DATE_RANGE_TOO_LARGE' } } });
});
