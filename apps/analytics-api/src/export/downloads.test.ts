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
    ...{ atOnce: 1, maxBytes: 1e6, stallMs: 200, log: createLog('test', 'silent') },
  });
  const open = () =>
    downloads.open('caller', { header: {}, rows: endless() } as never, { async *write() {} } as never, { gzip: false });
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
    ...{ atOnce: 8, maxBytes: 1e6, stallMs: 20_000, log: createLog('test', 'silent') },
  });
  const open = (callerId: string) =>
    downloads.open(callerId, { header: {}, rows: endless() } as never, { async *write() {} } as never, { gzip: false });
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

test('an export that fails before its first row has a status of its own', async () => {
  const { port } = await listening({ ANALYTICS_MAX_DAYS: '10', EXPORT_MAX_DAYS: '10' });
  const response = await begin(port, `/export/usage.csv?${RANGE}`);
  expect(response.statusCode).toBe(400);
  expect(JSON.parse((await rest(response)).text)).toMatchObject({ error: { data: { code: 'DATE_RANGE_TOO_LARGE' } } });
});
