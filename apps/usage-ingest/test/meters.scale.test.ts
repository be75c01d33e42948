import { dayOf } from '@tally/contracts';
import { startRelay, until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Fixture, startIngest } from './ingest-fixture.ts';

let one: Fixture;
/** Another process on the same stores, with a registry of its own. */
let other: Fixture;
let today: string;

beforeAll(async () => {
  one = await startIngest();
  other = await startIngest({}, undefined, one);
  one.clock.now = Date.now();
  other.clock.now = one.clock.now;
  today = dayOf(one.clock.now);
});
afterAll(async () => {
  await other.close();
  await one.close();
});

let serial = 0;
const record = (ingest: Fixture, metrics: Record<string, string>, more: object = {}) =>
  ingest.admin.usage.record.mutate({ entries: [{ id: `e${serial++}`, merchantId: 'acme', metrics, ...more }] });
const meter = (key: string, scale: number, metricType = key) =>
  one.admin.meters.create.mutate({ key, aggregation: 'SUM', metricType, scale });
const refusal = (code: string) => ({ data: { code } });
const currentOf = async (ingest: Fixture, type: string) =>
  (await ingest.admin.usage.current.query({ merchantId: 'acme', metricTypes: [type] })).metrics[type];

test('decimals need a meter, whose scale is exact everywhere', async () => {
  const refused = await record(one, { gpu_hours: '0.25' });
  expect(refused.rejected[0]!.message).toBe(
    'metrics.gpu_hours: 0.25 has decimals. Create a meter with metricType gpu_hours and scale 2 before its first event, or send whole numbers.',
  );
  expect(await meter('gpu_hours', 2)).toMatchObject({ scale: 2 });
  for (const amount of ['0.25', '3', '9999999999999.99'])
    expect((await record(one, { gpu_hours: amount }, { userId: 'ada' })).accepted, amount).toBe(1);
  for (const [amount, message] of [
    ['0.125', 'has 3 decimals; the scale of gpu_hours is 2 and cannot change.'],
    ['10000000000000.01', 'Expected at most 10^15 units of 2 decimals.'],
  ] as const)
    expect((await record(one, { gpu_hours: amount })).rejected[0]!.message).toContain(message);
  const sum = '10000000000003.24';
  expect(await currentOf(one, 'gpu_hours')).toBe(sum);
  await one.admin.flush.run.mutate({});
  expect(await currentOf(one, 'gpu_hours')).toBe(sum);
  const day = { merchantId: 'acme', date: today };
  expect((await one.admin.usage.explain.query({ ...day, metricType: 'gpu_hours' })).value).toBe(sum);
  const { rows } = await one.admin.usage.recent.query({ merchantId: 'acme' });
  expect(rows.map(({ metrics }) => metrics.gpu_hours).sort()).toEqual(['0.25', '3', '9999999999999.99']);
  const adjustment = { id: 'fix', ...day, metrics: { gpu_hours: '-0.05' }, reason: 'wrong' };
  expect((await one.admin.usage.adjust.mutate(adjustment)).metrics).toEqual({ gpu_hours: '-0.05' });
  await expect(
    one.admin.usage.adjust.mutate({ ...adjustment, id: 'finer', metrics: { gpu_hours: '0.001' } }),
  ).rejects.toMatchObject(refusal('INVALID_INPUT'));
  expect((await one.admin.usage.track.mutate({ merchantId: 'acme', metricType: 'gpu_hours', by: '0.01' })).total).toBe(
    '10000000000003.2',
  );
  expect((await one.admin.reconcile.check.query({ startDate: today, endDate: today })).drift).toEqual([]);
});

test('a scale is for ever, also after its meter is removed, and 0 where a type was used before', async () => {
  await expect(meter('gpu_days', 3, 'gpu_hours')).rejects.toMatchObject(refusal('CONFLICT'));
  await one.admin.meters.remove.mutate({ key: 'gpu_hours' });
  await expect(meter('gpu_hours', 0)).rejects.toMatchObject(refusal('CONFLICT'));
  expect((await record(other, { gpu_hours: '0.25' })).accepted).toBe(1);
  // Accepted, and not flushed yet.
  await record(other, { pages: '2' });
  await expect(meter('pages', 1)).rejects.toMatchObject(refusal('CONFLICT'));
  expect((await meter('pages', 0)).scale).toBe(0);
  await expect(meter('tokens_spent', 2, 'prompt_tokens')).rejects.toMatchObject(refusal('CONFLICT'));
});

test('a process with an older registry counts by the new one', async () => {
  await record(other, { queries: '1' });
  await meter('seconds', 3);
  expect((await record(other, { seconds: '0.125' })).accepted).toBe(1);
  expect((await record(other, { seconds: '2' })).accepted).toBe(1);
  expect(await currentOf(other, 'seconds')).toBe('2.125');
  expect(await currentOf(one, 'seconds')).toBe('2.125');
  // Written directly to Postgres, since Redis keeps no day so old.
  await meter('minutes', 1);
  const time = new Date(one.clock.now - 20 * 86_400_000).toISOString();
  expect((await record(other, { minutes: '1.5' }, { time })).accepted).toBe(1);
});

test.each([1, 2, 3])('events that are recorded while a scale is declared have one scale (%i)', async (round) => {
  const type = `raced_${round}`;
  let accepted = 0;
  let isDone = false;
  const recording = (async () => {
    while (!isDone) {
      const results = await Promise.all([record(other, { [type]: '1' }), record(one, { queries: '1' })]);
      accepted += results[0].accepted;
    }
  })();
  const created = await meter(type, 2).then(
    () => true,
    (error: { data?: { code: string } }) => {
      expect(error).toMatchObject(refusal('CONFLICT'));
      return false;
    },
  );
  isDone = true;
  await recording;
  accepted += (await record(other, { [type]: '1' })).accepted;
  await one.admin.flush.run.mutate({});
  expect(await currentOf(one, type)).toBe(String(accepted));
  expect((await record(other, { [type]: '0.25' })).accepted).toBe(created ? 1 : 0);
  expect((await one.admin.reconcile.check.query({ startDate: today, endDate: today })).drift).toEqual([]);
});

test('scales are declared one after another: the end of one lets no event be recorded before the other', async () => {
  const address = new URL(one.databaseUrl);
  const relay = await startRelay({ host: address.hostname, port: Number(address.port) });
  address.port = String(relay.port);
  const late = await startIngest({}, undefined, { databaseUrl: address.toString(), redisUrl: one.redisUrl });
  late.clock.now = one.clock.now;
  // It has flushed what was accepted, and has not declared the scale.
  const held = relay.hold('Starts the next derivation run');
  const kilos = late.admin.meters.create.mutate({ key: 'kilos', aggregation: 'SUM', metricType: 'kilos', scale: 3 });
  await held.caught;
  const tries = vi.spyOn(one.redis, 'set');
  let isDeclared = false;
  const litres = meter('litres', 2).then(() => {
    isDeclared = true;
  });
  const isWaiting = () => tries.mock.calls.filter(([key]) => key === 'registry:changer').length > 1;
  await until('the second is declared, or waits', () => isDeclared || isWaiting());
  const marks = await one.redis.keys('usage-shard:*:registry');
  expect(new Set(await Promise.all(marks.map((key) => one.redis.get(key))))).toEqual(new Set(['changing']));
  const recording = record(other, { kilos: '5' });
  held.release();
  await Promise.all([kilos, litres]);
  expect((await recording).accepted).toBe(1);
  expect(await currentOf(one, 'kilos')).toBe('5');
  await late.close();
  relay.close();
});

test('a property that a meter counts must be a number of its scale', async () => {
  await one.admin.meters.create.mutate({
    key: 'latency',
    aggregation: 'MAX',
    valueProperty: 'took',
    scale: 1,
    eventType: 'chat',
  });
  const sent = (took: string | number, event_type = 'chat') =>
    record(other, {}, { properties: { took, event_type } }).then(({ rejected }) => rejected[0]?.message);
  // The registry of the other process is stale only for events that go through the script.
  expect(await sent(1.5)).toBeUndefined();
  expect(await sent('fast')).toBe(
    'properties.took: Expected a number with at most 1 decimals, since the meter latency counts it.',
  );
  expect(await sent('0.25')).toContain('at most 1 decimals');
  expect(await sent('0.25', 'batch')).toBeUndefined();
});
