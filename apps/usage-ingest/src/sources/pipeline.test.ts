import type { SourceCounts } from '@tally/db';
import { createLog } from '@tally/service';
import pg from 'pg';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ADMIN_KEY, type Fixture, startIngest } from '../../test/ingest-fixture.ts';
import { meterly } from '../../test/stub-source.ts';
import { createPipeline } from './pipeline.ts';

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest({}, undefined, undefined, [meterly(async (merchantId) => ({ merchantId }))]);
});
afterAll(() => ingest.close());

const BEARER = { authorization: `Bearer ${ADMIN_KEY}` };

async function send(path: string, body: string | Buffer, headers: Record<string, string> = {}) {
  const init = { method: 'POST', headers: { ...BEARER, ...headers }, body };
  const response = await ingest.app.request(`/sources/meterly${path}`, init);
  return { status: response.status, body: JSON.parse(await response.text()) };
}
const event = (key: string, more: object = {}) => ({ key, customer: 'acme', units: 2, ...more });
const single = (value: object, headers?: Record<string, string>) =>
  send('/streams/api_calls/events', JSON.stringify(value), headers);
const batch = (values: object[]) =>
  send('/streams/api_calls/batch', values.map((value) => JSON.stringify(value)).join('\n'));

const stateOf = async () =>
  (await ingest.admin.sources.status.query({})).sources.find(({ source }) => source === 'meterly');

describe('an event of a source', () => {
  test('is accepted, a duplicate or refused, and answered in the shape of the product', async () => {
    expect(await single(event('one'))).toEqual({ status: 201, body: { status: 'accepted' } });
    expect(await single(event('one'))).toEqual({ status: 200, body: { status: 'duplicate' } });
    expect(await single({ customer: 'acme' })).toEqual({
      status: 422,
      body: { meterly_error: { code: 'INVALID_ENTRY', message: '`key` is missing.' } },
    });
    expect(await single(event('two', { units: 'many' }))).toMatchObject({ status: 422 });
    expect(await send('/streams/api_calls/events', '{')).toMatchObject({
      status: 400,
      body: { meterly_error: { code: 'INVALID_JSON' } },
    });
    expect(await ingest.admin.usage.current.query({ merchantId: 'acme' })).toMatchObject({
      metrics: { api_calls: '2' },
    });
  });

  test('is read from a form, with a key as the password of Basic', async () => {
    const basic = Buffer.from(`anybody:${ADMIN_KEY}`).toString('base64');
    const headers = { authorization: `Basic ${basic}`, 'content-type': 'application/x-www-form-urlencoded' };
    expect(await send('/streams/forms/events', 'key=form&customer=acme&units=0.5', headers)).toMatchObject({
      status: 422,
      body: { meterly_error: { message: expect.stringContaining('forms') } },
    });
    expect(await send('/streams/forms/events', 'key=form&customer=acme&units=5', headers)).toMatchObject({
      status: 201,
    });
  });
});

test.each([
  ['Redis', '2026-11-22T11:00:00Z'],
  ['Postgres, past Redis', '2026-11-02T11:00:00Z'],
])('a batch that is stored in %s has the result of each event', async (store, at) => {
  const of = (id: string, more: object = {}) => event(`${store} ${id}`, { at, ...more });
  const events = [of('1'), { heartbeat: true }, of('2'), of('1'), { customer: 'acme' }, of('2', { units: 3 })];
  const results = ['accepted', 'skipped', 'accepted', 'duplicate', 'INVALID_ENTRY', 'ID_CONFLICT'];
  expect((await batch(events)).body).toEqual({ results });
  expect((await batch([of('0'), of('1'), of('3')])).body).toEqual({ results: ['accepted', 'duplicate', 'accepted'] });
});

test('a batch of more events than one call may have is counted in parts', async () => {
  const many = Array.from({ length: 2_500 }, (_, index) => event(`many-${index}`));
  const { results } = (await batch([...many, event('many-0')])).body;
  expect(results.slice(0, -1).every((result: string) => result === 'accepted')).toBe(true);
  expect(results.at(-1)).toBe('duplicate');
});

test('bodies that are not text have no limits of JSON, but those of their size', async () => {
  const headers = { 'content-type': 'application/x-meterly' };
  const bytes = Buffer.alloc(500_000, '[');
  expect(await send('/streams/api_calls/batch', bytes)).toMatchObject({ status: 400 });
  expect((await send('/streams/api_calls/batch', bytes, headers)).body).toEqual({
    results: ['accepted', 'duplicate', 'duplicate'],
  });
  expect(await send('/streams/api_calls/batch', Buffer.alloc(1_000_001), headers)).toMatchObject({
    status: 413,
    body: { meterly_error: { code: 'BODY_TOO_LARGE' } },
  });
});

test('a key is asked for, and other paths are refused, in the shape of the product', async () => {
  expect(await single(event('x'), { authorization: 'Bearer nobody' })).toMatchObject({
    status: 401,
    body: { meterly_error: { code: 'UNAUTHORIZED' } },
  });
  expect(await send('/no/such/path', '')).toMatchObject({
    status: 404,
    body: { meterly_error: { code: 'NOT_FOUND' } },
  });
  const { key } = await ingest.admin.keys.create.mutate({ name: 'reader', role: 'viewer' });
  const reader = { authorization: `Bearer ${key}` };
  expect(await single(event('x'), reader)).toMatchObject({ status: 403 });
  const usage = await ingest.app.request('/sources/meterly/customers/a%2Fb/usage', { headers: reader });
  expect(await usage.json()).toEqual({ merchantId: 'a/b' });
});

test('a key that is bound to a merchant counts events of this one only', async () => {
  const { key } = await ingest.admin.keys.create.mutate({ name: 'bound', role: 'producer', merchantId: 'acme' });
  const authorization = { authorization: `Bearer ${key}` };
  const lines = [event('own'), event('other', { customer: 'globex' })].map((each) => JSON.stringify(each)).join('\n');
  expect((await send('/streams/api_calls/batch', lines, authorization)).body).toEqual({
    results: ['accepted', 'MERCHANT_FORBIDDEN'],
  });
  expect(await single(event('other', { customer: 'globex' }), authorization)).toMatchObject({
    status: 403,
    body: { meterly_error: { code: 'MERCHANT_FORBIDDEN' } },
  });
});

test('counts the events of a source, and keeps its last rejections', async () => {
  const before = (await stateOf())!;
  await batch([event('s1'), event('s1'), { heartbeat: true }, { customer: 'nobody' }]);
  await Promise.all(Array.from({ length: 120 }, () => single({})));
  expect(await stateOf()).toEqual({
    ...before,
    received: before.received + 124,
    accepted: before.accepted + 1,
    duplicates: before.duplicates + 1,
    rejected: before.rejected + 121,
    skipped: before.skipped + 1,
  });
  const { rows } = await ingest.admin.sources.rejections.query({ source: 'meterly', limit: 1000 });
  expect(rows).toHaveLength(100);
  expect(rows[0]).toEqual({
    source: 'meterly',
    at: new Date(ingest.clock.now).toISOString(),
    merchantId: null,
    eventId: null,
    code: 'INVALID_ENTRY',
    message: '`key` is missing.',
  });
  const metrics = await (await ingest.app.request('/metrics')).text();
  expect(metrics).toContain(`tally_source_events_total{source="meterly",result="skipped"} ${before.skipped + 1}`);
});

test('counts are kept while Postgres does not take them', async () => {
  const before = (await stateOf())!;
  const postgres = new pg.Client({ connectionString: ingest.databaseUrl });
  await postgres.connect();
  await postgres.query('alter table source_states rename to elsewhere');
  await single(event('kept'));
  await expect(ingest.admin.sources.status.query({})).rejects.toThrow();
  await postgres.query('alter table elsewhere rename to source_states');
  await postgres.end();
  expect(await stateOf()).toMatchObject({ accepted: before.accepted + 1 });
});

test('saving resolves once the counts of a save that is still running are stored', async () => {
  const stored: SourceCounts[] = [];
  let answer = () => {};
  const postgres = new Promise<void>((resolve) => {
    answer = resolve;
  });
  const pipeline = createPipeline({
    accept: { record: () => Promise.reject(new Error('Nothing is recorded.')) },
    store: {
      async add(counts) {
        await postgres;
        stored.push(...counts);
      },
    },
    registry: new Registry(),
    log: createLog('test', 'silent'),
    now: Date.now,
  });
  await pipeline.record('meterly', ['skipped'], { boundTo: null, backfill: false, isCompared: false });
  const running = pipeline.save();
  const next = pipeline.save().then(() => stored.length);
  await Promise.race([next, new Promise(setImmediate)]);
  answer();
  expect(await next).toBe(1);
  await running;
});
