import Stripe from 'stripe';
import { expect, test } from 'vitest';
import { clientsWorld } from '../../test/clients-world.ts';

const world = clientsWorld();

function clientOf(key = world.adminKey): Stripe {
  const { hostname, port } = new URL(world.url);
  return new Stripe(key, { host: hostname, port, protocol: 'http' });
}
const seconds = () => Math.floor(world.clock.now / 1000) - 60;
const eventOf = <More extends object>(customer: string, value: string, more = {} as More) => ({
  event_name: 'api_tokens',
  payload: { stripe_customer_id: customer, value, model: 'gpt 4o&x' },
  ...more,
});

test("the client's v1 event is counted once by its identifier, and answered as at Stripe", async () => {
  const stripe = clientOf();
  const timestamp = seconds();
  const event = eventOf('cus_1', '25', { identifier: 'i1', timestamp });
  const answer = await stripe.billing.meterEvents.create(event);
  expect(answer).toMatchObject({
    ...{ object: 'billing.meter_event', event_name: 'api_tokens', identifier: 'i1', timestamp },
    ...{ livemode: false, payload: { value: '25', stripe_customer_id: 'cus_1', model: 'gpt 4o&x' } },
  });
  await stripe.billing.meterEvents.create(event);
  expect(await world.totalsOf('cus_1')).toEqual({ requests: '1', api_tokens: '25' });
  const { rows } = await world.admin.usage.recent.query({ merchantId: 'cus_1' });
  expect(rows).toMatchObject([
    { id: 'stripe:i1', model: 'gpt 4o&x', properties: { event_type: 'api_tokens', value: '25' } },
  ]);
});

test('v1, v2 and the stream have one identity', async () => {
  const stripe = clientOf(await world.keyOf('producer'));
  const timestamp = new Date(world.clock.now - 60_000).toISOString();
  const of = (identifier: string) => ({ ...eventOf('cus_2', '3'), identifier, timestamp });
  await stripe.billing.meterEvents.create(eventOf('cus_2', '3', { identifier: 'same', timestamp: seconds() }));
  expect(await stripe.v2.billing.meterEvents.create(of('same'))).toMatchObject({
    ...{ object: 'v2.billing.meter_event', identifier: 'same', timestamp },
  });
  const session = await stripe.v2.billing.meterEventSession.create();
  const stream = clientOf(session.authentication_token);
  await stream.v2.billing.meterEventStream.create({ events: [of('same'), of('s1'), of('s2')] });
  await stream.v2.billing.meterEventStream.create({ events: [of('s1'), of('s2')] });
  expect(await world.totalsOf('cus_2')).toEqual({ requests: '3', api_tokens: '9' });
});

test('an event without an identifier is counted once when the client sends it again', async () => {
  const stripe = clientOf();
  world.failing.before = 1;
  await stripe.billing.meterEvents.create(eventOf('cus_3', '5'));
  world.failing.after = 1;
  await stripe.billing.meterEvents.create(eventOf('cus_3', '5'));
  const session = await stripe.v2.billing.meterEventSession.create();
  world.failing.before = 1;
  await clientOf(session.authentication_token).v2.billing.meterEventStream.create({
    events: [eventOf('cus_3', '1'), eventOf('cus_3', '1')],
  });
  expect(await world.totalsOf('cus_3')).toEqual({ requests: '4', api_tokens: '12' });
});

test("refuses a body that is no event with the client's own error classes", async () => {
  const stripe = clientOf();
  const create = (event: ReturnType<typeof eventOf>, of = stripe) => of.billing.meterEvents.create(event);
  for (const value of ['many', '', '2.5', '-1'])
    await expect(create(eventOf('cus_4', value))).rejects.toMatchObject({
      ...{ type: 'StripeInvalidRequestError', statusCode: 400, code: 'invalid_entry' },
    });
  await expect(create(eventOf('', '1'))).rejects.toMatchObject({ type: 'StripeInvalidRequestError' });
  await expect(create(eventOf('cus_4', '1'), clientOf('unknown'))).rejects.toMatchObject({
    ...{ type: 'StripeAuthenticationError', statusCode: 401 },
  });
  const viewer = clientOf(await world.keyOf('viewer'));
  await expect(create(eventOf('cus_4', '1'), viewer)).rejects.toMatchObject({ type: 'StripePermissionError' });
  const bound = clientOf(await world.keyOf('producer', 'cus_5'));
  await expect(create(eventOf('cus_4', '1'), bound)).rejects.toMatchObject({ type: 'StripePermissionError' });
  await create(eventOf('cus_5', '1'), bound);
  const session = await stripe.v2.billing.meterEventSession.create();
  await expect(
    clientOf(session.authentication_token).v2.billing.meterEventStream.create({
      events: Array.from({ length: 101 }, () => eventOf('cus_4', '1')),
    }),
  ).rejects.toMatchObject({ statusCode: 400 });
  expect(await world.resultsOf('stripe')).toMatchObject({ rejected: 7 });
});

test('meters are created, listed in pages and found, and fractions of their values are counted', async () => {
  const stripe = clientOf();
  for (const name of ['gpu_seconds', 'calls', 'last_seats'])
    await stripe.billing.meters.create({
      ...{ display_name: name, event_name: name },
      default_aggregation: { formula: name === 'calls' ? 'count' : name === 'last_seats' ? 'last' : 'sum' },
    });
  const names: string[] = [];
  for await (const meter of stripe.billing.meters.list({ limit: 1 })) names.push(meter.event_name);
  expect(names.sort()).toEqual(['calls', 'gpu_seconds', 'last_seats']);
  const all = (await stripe.billing.meters.list()).data.map(({ id }) => id);
  const before = await stripe.billing.meters.list({ ending_before: all[2]!, limit: 1 });
  expect([before.data.map(({ id }) => id), before.has_more]).toEqual([[all[1]], true]);
  const backwards: string[] = [];
  for await (const { id } of stripe.billing.meters.list({ ending_before: all[2]!, limit: 1 })) backwards.push(id);
  expect(backwards).toEqual([all[1], all[0]]);
  await expect(stripe.billing.meters.list({ ending_before: all[2]!, starting_after: all[0]! })).rejects.toMatchObject({
    statusCode: 400,
  });
  expect((await stripe.billing.meters.list({ status: 'inactive' })).data).toEqual([]);
  expect((await stripe.billing.meters.list({ status: 'active' })).data).toHaveLength(3);
  await expect(
    stripe.billing.meters.create({
      ...{ display_name: 'again', event_name: 'calls', default_aggregation: { formula: 'count' } },
    }),
  ).rejects.toMatchObject({ type: 'StripeInvalidRequestError', statusCode: 400, code: 'conflict' });
  expect(await stripe.billing.meters.retrieve('calls')).toMatchObject({
    ...{ id: 'calls', object: 'billing.meter', default_aggregation: { formula: 'count' } },
  });
  await expect(stripe.billing.meters.retrieve('none')).rejects.toMatchObject({
    ...{ code: 'resource_missing', statusCode: 404 },
  });
  const member = clientOf(await world.keyOf('member'));
  await expect(
    member.billing.meters.create({
      ...{ display_name: 'x', event_name: 'x', default_aggregation: { formula: 'sum' as const } },
    }),
  ).rejects.toMatchObject({ type: 'StripePermissionError' });
  await member.billing.meterEvents.create({
    event_name: 'gpu_seconds',
    payload: { stripe_customer_id: 'cus_6', value: '0.25' },
  });
  const { rows } = await world.admin.usage.recent.query({ merchantId: 'cus_6' });
  expect(rows).toMatchObject([{ properties: { value: '0.25' }, metrics: { requests: '1' } }]);
  // As languages print small and large floats.
  for (const value of ['1e-7', '2E+3', '-0'])
    await member.billing.meterEvents.create({
      event_name: 'gpu_seconds',
      payload: { stripe_customer_id: 'cus_9', value },
    });
  const printed = (await world.admin.usage.recent.query({ merchantId: 'cus_9' })).rows;
  expect(printed.map(({ properties }) => properties.value).sort()).toEqual(['0', '0.0000001', '2000']);
  for (const value of ['1e30', 'NaN', 'Infinity'])
    await expect(
      member.billing.meterEvents.create({ event_name: 'gpu_seconds', payload: { stripe_customer_id: 'cus_9', value } }),
    ).rejects.toMatchObject({ type: 'StripeInvalidRequestError', statusCode: 400 });
});

test('an event is cancelled by an admin key of its merchant', async () => {
  const stripe = clientOf();
  await stripe.billing.meterEvents.create(eventOf('cus_7', '5', { identifier: 'wrong', timestamp: seconds() }));
  const cancel = { event_name: 'api_tokens', type: 'cancel' as const, cancel: { identifier: 'wrong' } };
  await expect(stripe.billing.meterEventAdjustments.create(cancel)).rejects.toMatchObject({ statusCode: 400 });
  const own = clientOf(await world.keyOf('admin', 'cus_7'));
  expect(await own.billing.meterEventAdjustments.create(cancel)).toMatchObject({
    ...{ object: 'billing.meter_event_adjustment', status: 'complete', cancel: { identifier: 'wrong' } },
  });
  await own.v2.billing.meterEvents.create(eventOf('cus_7', '8', { identifier: 'wrong too' }));
  const second = { ...cancel, cancel: { identifier: 'wrong too' } };
  expect(await own.v2.billing.meterEventAdjustments.create(second)).toMatchObject({
    ...{ object: 'v2.billing.meter_event_adjustment', status: 'complete', cancel: { identifier: 'wrong too' } },
  });
  await expect(stripe.v2.billing.meterEventAdjustments.create(second)).rejects.toMatchObject({ statusCode: 400 });
  expect(await world.totalsOf('cus_7')).toMatchObject({ api_tokens: '0' });
});

test('a meter is renamed; what Tally cannot do with meters is not found', async () => {
  const { billing } = clientOf();
  await billing.meters.create({
    ...{ display_name: 'Old', event_name: 'to_rename', default_aggregation: { formula: 'sum' } },
  });
  expect(await billing.meters.update('to_rename', { display_name: 'New' })).toMatchObject({ display_name: 'New' });
  expect(await billing.meters.retrieve('to_rename')).toMatchObject({ display_name: 'New' });
  const member = clientOf(await world.keyOf('member'));
  await expect(member.billing.meters.update('to_rename', { display_name: 'x' })).rejects.toMatchObject({
    type: 'StripePermissionError',
  });
  await expect(billing.meters.deactivate('to_rename')).rejects.toMatchObject({
    ...{ type: 'StripeInvalidRequestError', statusCode: 404, code: 'resource_missing' },
  });
});

test('the client has the id of each request, also of refused ones, as in the log', async () => {
  const stripe = clientOf();
  const { lastResponse } = await stripe.billing.meterEvents.create(eventOf('cus_ids', '1'));
  expect(lastResponse.requestId).toBe(lastResponse.headers['x-request-id']);
  expect(lastResponse.requestId).toMatch(/^[\da-f-]{36}$/);
  const requestId = expect.stringMatching(/^[\da-f-]{36}$/);
  await expect(clientOf('unknown').billing.meters.list()).rejects.toMatchObject({ statusCode: 401, requestId });
  await expect(stripe.billing.meters.retrieve('none')).rejects.toMatchObject({ statusCode: 404, requestId });
});

test('a Date as the time of a v2 event is refused with what to send: the client writes it as seconds', async () => {
  const { v2 } = clientOf();
  const event = { ...eventOf('cus_2d', '3'), timestamp: new Date(world.clock.now) as unknown as string };
  const refused = { type: 'StripeInvalidRequestError', statusCode: 400, message: expect.stringContaining('ISO 8601') };
  await expect(v2.billing.meterEvents.create(event)).rejects.toMatchObject(refused);
  await expect(v2.billing.meterEventStream.create({ events: [event] })).rejects.toMatchObject(refused);
  expect(await world.totalsOf('cus_2d')).toEqual({});
});
