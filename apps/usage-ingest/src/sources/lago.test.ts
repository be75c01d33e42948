import { Client } from 'lago-javascript-client';
import { expect, test } from 'vitest';
import { clientsWorld } from '../../test/clients-world.ts';

const world = clientsWorld();
const clientOf = (key = world.adminKey) => Client(key, { baseUrl: `${world.url}/sources/lago/api/v1` });
const seconds = () => Math.floor(world.clock.now / 1000) - 60;
const eventOf = (subscription: string, id: string, properties: Record<string, unknown> = { tokens: 5 }) => ({
  ...{ transaction_id: id, external_subscription_id: subscription, code: 'prompt' },
  properties: properties as Record<string, string>,
});
const refused = (status: number, more: object = {}) => expect.objectContaining({ status, ...more });

test('the client sends an event, counted once by its transaction', async () => {
  const { events } = clientOf(await world.keyOf('member'));
  const event = { ...eventOf('sub/1', 't/1', { tokens: 5, model: 'gpt-4o' }), timestamp: `${seconds()}.5` };
  const { data } = await events.createEvent({ event });
  expect(data.event).toMatchObject({
    ...{ transaction_id: 't/1', external_subscription_id: 'sub/1', code: 'prompt', lago_id: expect.any(String) },
    timestamp: new Date(seconds() * 1000 + 500).toISOString(),
  });
  await events.createEvent({ event });
  expect(await world.totalsOf('sub/1')).toEqual({ requests: '1', tokens: '5' });
  const { rows } = await world.admin.usage.recent.query({ merchantId: 'sub/1' });
  expect(rows).toMatchObject([
    { id: 'lago:t/1', model: 'gpt-4o', properties: { event_type: 'prompt' }, time: data.event.timestamp },
  ]);
});

test('a batch names its bad events by their place, and counts the others', async () => {
  const { events } = clientOf();
  const batch = [eventOf('sub2', '1'), eventOf('sub2', '2', { tokens: -1 }), eventOf('sub2', '3')];
  await expect(events.createBatchEvents({ events: batch })).rejects.toEqual(
    refused(422, {
      error: expect.objectContaining({
        code: 'validation_errors',
        error_details: { 1: { event: [expect.any(String)] } },
      }),
    }),
  );
  const { data } = await events.createBatchEvents({ events: [batch[0]!, batch[2]!] });
  expect(data.events.map(({ transaction_id }) => transaction_id)).toEqual(['1', '3']);
  expect(await world.totalsOf('sub2')).toEqual({ requests: '2', tokens: '10' });
  const many = Array.from({ length: 101 }, (_, index) => eventOf('sub2', `m${index}`));
  await expect(events.createBatchEvents({ events: many })).rejects.toEqual(
    refused(422, { error: expect.objectContaining({ error_details: { events: ['too_many_events'] } }) }),
  );
});

test('the client throws the answer where an event, a key or a store is at fault', async () => {
  const { events } = clientOf();
  const iso = { ...eventOf('sub3', '1'), timestamp: '2026-11-22T10:00:00Z' };
  await expect(events.createEvent({ event: iso })).rejects.toEqual(refused(422));
  await expect(events.createEvent({ event: eventOf('', '1') })).rejects.toEqual(refused(422));
  await expect(events.createEvent({ event: eventOf('sub3', '') })).rejects.toEqual(refused(422));
  const untyped = { ...eventOf('sub3', '1'), code: '' };
  await expect(events.createEvent({ event: untyped })).rejects.toEqual(refused(422));
  await expect(clientOf('unknown').events.createEvent({ event: eventOf('sub3', '1') })).rejects.toEqual(refused(401));
  const bound = clientOf(await world.keyOf('producer', 'sub4'));
  await expect(bound.events.createEvent({ event: eventOf('sub3', '1') })).rejects.toEqual(refused(403));
  const viewer = clientOf(await world.keyOf('viewer'));
  await expect(viewer.events.createEvent({ event: eventOf('sub3', '1') })).rejects.toEqual(refused(403));
  world.failing.before = 1;
  await expect(events.createEvent({ event: eventOf('sub3', '1') })).rejects.toEqual(refused(503));
  await events.createEvent({ event: eventOf('sub3', '1') });
  expect(await world.totalsOf('sub3')).toEqual({ requests: '1', tokens: '5' });
});

test('events are found and listed for a subscription, among the newest', async () => {
  const { events } = clientOf(await world.keyOf('member', 'sub5'));
  const at = (index: number) => ({ timestamp: String(seconds() - index) });
  const batch = [0, 1, 2].map((index) => ({ ...eventOf('sub5', `f/${index}`, { tokens: 5 + index }), ...at(index) }));
  await events.createBatchEvents({ events: batch });
  const { data } = await events.findEvent('f/1');
  expect(data.event).toMatchObject({
    ...{ transaction_id: 'f/1', external_subscription_id: 'sub5', code: 'prompt', properties: { tokens: '6' } },
    timestamp: new Date((seconds() - 1) * 1000).toISOString(),
  });
  await expect(events.findEvent('none')).rejects.toEqual(refused(404));
  const page = await events.findAllEvents({ external_subscription_id: 'sub5', per_page: 2 });
  expect(page.data.events.map(({ transaction_id }) => transaction_id)).toEqual(['f/0', 'f/1']);
  expect(page.data.meta).toMatchObject({ current_page: 1, next_page: 2, total_pages: 2, total_count: 3 });
  const next = await events.findAllEvents({ external_subscription_id: 'sub5', per_page: 2, page: 2 });
  expect(next.data.events.map(({ transaction_id }) => transaction_id)).toEqual(['f/2']);
  const other = await events.findAllEvents({ external_subscription_id: 'sub5', code: 'other' });
  expect(other.data.events).toEqual([]);
  await expect(events.findAllEvents({ per_page: 101 })).rejects.toEqual(refused(422));
  await expect(events.findAllEvents({ external_subscription_id: 'sub6' })).rejects.toEqual(refused(403));
});

test('an event is found by its id alone, whatever the number of subscriptions and of newer events', async () => {
  const { events } = clientOf(await world.keyOf('member'));
  const subscriptions = Array.from({ length: 25 }, (_, index) => `found-${index}`);
  const batch = subscriptions.map((name) => ({ ...eventOf(name, `of ${name}`), timestamp: String(seconds() - 60) }));
  await events.createBatchEvents({ events: batch });
  const { data } = await events.findEvent('of found-24');
  expect(data.event).toMatchObject({ transaction_id: 'of found-24', external_subscription_id: 'found-24' });
  const own = clientOf(await world.keyOf('member', 'found-3')).events;
  expect((await own.findEvent('of found-3')).data.event.external_subscription_id).toBe('found-3');
  await expect(own.findEvent('of found-4')).rejects.toEqual(refused(404));
  await expect(events.findEvent('none')).rejects.toEqual(refused(404));
});

test('billable metrics are created, listed, found, renamed and removed', async () => {
  const { billableMetrics } = clientOf();
  const metric = { name: 'GB', code: 'gb', aggregation_type: 'sum_agg' as const, field_name: 'gb', recurring: false };
  const created = await billableMetrics.createBillableMetric({ billable_metric: metric });
  expect(created.data.billable_metric).toMatchObject({ ...metric, lago_id: expect.any(String) });
  await expect(billableMetrics.createBillableMetric({ billable_metric: metric })).rejects.toEqual(
    refused(422, {
      error: expect.objectContaining({
        error_details: { code: expect.arrayContaining(['value_already_exist']) },
      }),
    }),
  );
  const calls = { name: 'Calls', code: 'calls', aggregation_type: 'count_agg' as const, recurring: false };
  await billableMetrics.createBillableMetric({ billable_metric: calls });
  const { data } = await billableMetrics.findAllBillableMetrics({ per_page: 1 });
  expect(data).toMatchObject({ billable_metrics: [{}], meta: { total_count: 2, next_page: 2 } });
  expect((await billableMetrics.findBillableMetric('gb')).data).toEqual(created.data);
  const rename = (billable_metric: object) => billableMetrics.updateBillableMetric('gb', { billable_metric });
  expect((await rename({ name: 'Gigabytes', code: 'gb' })).data.billable_metric).toMatchObject({ name: 'Gigabytes' });
  await expect(rename({ aggregation_type: 'max_agg' })).rejects.toEqual(refused(422));
  const member = clientOf(await world.keyOf('member'));
  await expect(member.billableMetrics.destroyBillableMetric('gb')).rejects.toEqual(refused(403));
  expect((await billableMetrics.destroyBillableMetric('gb')).data.billable_metric).toMatchObject({ code: 'gb' });
  await expect(billableMetrics.findBillableMetric('gb')).rejects.toEqual(refused(404));
});
