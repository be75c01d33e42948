import Metronome from '@metronome/sdk';
import { Polar } from '@polar-sh/sdk';
import Orb from 'orb-billing';
import { describe, expect, test } from 'vitest';
import { clientsWorld } from '../../test/clients-world.ts';

const world = clientsWorld();
const at = () => new Date(world.clock.now - 60_000).toISOString();

/** A client of each product, as a function that sends events of a customer; the tests cover what all share. */
const PRODUCTS = {
  metronome: {
    send: (key: string, events: Event[]) =>
      new Metronome({ bearerToken: key, baseURL: `${world.url}/sources/metronome` }).v1.usage.ingest({
        usage: events.map(({ id, customer, properties, time = at() }) => ({
          ...{ transaction_id: id, customer_id: customer, event_type: 'prompt', timestamp: time, properties },
        })),
      }),
    retries: true,
  },
  orb: {
    send: (key: string, events: Event[]) =>
      new Orb({ apiKey: key, baseURL: `${world.url}/sources/orb/v1` }).events.ingest({
        events: events.map(({ id, customer, properties, time = at() }) => ({
          ...{ idempotency_key: id, external_customer_id: customer, event_name: 'prompt', timestamp: time, properties },
        })),
        // The types of the client do not have it.
        ...{ debug: true },
      }),
    retries: true,
  },
  polar: {
    send: (key: string, events: Event[]) =>
      new Polar({ accessToken: key, serverURL: `${world.url}/sources/polar` }).events.ingest({
        events: events.map(({ id, customer, properties, time = at() }) => ({
          ...{ name: 'prompt', externalId: id, externalCustomerId: customer, timestamp: new Date(time) },
          metadata: properties as Record<string, string>,
        })),
      }),
    retries: false,
  },
};
type Event = { id: string; customer: string; properties: Record<string, unknown>; time?: string };
type Product = keyof typeof PRODUCTS;

describe.each(Object.keys(PRODUCTS) as Product[])("%s's client", (product) => {
  const { send, retries } = PRODUCTS[product];
  const customer = (name: string) => `${name}@${product}.example`;
  const eventOf = (name: string, id: string, properties: Record<string, unknown> = { tokens: 5 }) => ({
    id,
    customer: customer(name),
    properties,
  });

  test('sends events, each counted once', async () => {
    const events = [eventOf('a', '1'), eventOf('a', '2', { inputTokens: 7, model: 'gpt-4o' })];
    await send(world.adminKey, events);
    const again = await send(await world.keyOf('member'), [...events, eventOf('a', '3', { tokens: '11' })]);
    if (product === 'orb')
      expect(again).toMatchObject({ validation_failed: [], debug: { duplicate: ['1', '2'], ingested: ['3'] } });
    if (product === 'polar') expect(again).toMatchObject({ inserted: 1, duplicates: 2 });
    expect(await world.totalsOf(customer('a'))).toEqual({ requests: '3', tokens: '16', input_tokens: '7' });
    const { rows } = await world.admin.usage.recent.query({ merchantId: customer('a') });
    expect(rows.find(({ id }) => id === `${product}:2`)).toMatchObject({
      model: 'gpt-4o',
      properties: { event_type: 'prompt', inputTokens: '7' },
    });
  });

  test('sees that nothing of a batch was counted, and sends again what failed', async () => {
    const bad = eventOf('b', 'bad', { tokens: -1 });
    await expect(send(world.adminKey, [bad])).rejects.toThrow();
    await send(world.adminKey, [eventOf('b', '1'), bad]);
    const { rows } = await world.admin.sources.rejections.query({ source: product, limit: 2 });
    expect(rows).toMatchObject([{ code: 'INVALID_ENTRY', eventId: `${product}:bad` }, { code: 'INVALID_ENTRY' }]);
    world.failing.before = 1;
    if (retries) await send(world.adminKey, [eventOf('b', '2')]);
    else await expect(send(world.adminKey, [eventOf('b', '2')])).rejects.toMatchObject({ statusCode: 503 });
    world.failing.after = 1;
    await send(world.adminKey, [eventOf('b', '2')]);
    expect(await world.totalsOf(customer('b'))).toEqual({ requests: '2', tokens: '10' });
  });

  test('is refused with a key that is unknown, may not record, or belongs to another merchant', async () => {
    await expect(send('unknown', [eventOf('c', '1')])).rejects.toMatchObject(statusOf(401));
    await expect(send(await world.keyOf('viewer'), [eventOf('c', '1')])).rejects.toMatchObject(statusOf(403));
    const own = await world.keyOf('producer', customer('c'));
    await send(own, [eventOf('c', '1')]);
    await expect(send(own, [eventOf('d', '1')])).rejects.toMatchObject(statusOf(403));
    expect(await world.resultsOf(product)).toMatchObject({ accepted: expect.any(Number) });
  });

  const statusOf = (status: number) => (product === 'polar' ? { statusCode: status } : { status });
});

test("tokens, models and costs of Polar's AI strategies are those of model calls", async () => {
  const polar = new Polar({ accessToken: world.adminKey, serverURL: `${world.url}/sources/polar` });
  const llm = { vendor: 'openai', model: 'gpt-4o', inputTokens: 374, outputTokens: 44, totalTokens: 418 };
  await polar.events.ingest({
    events: [
      {
        ...{ name: 'prompt', externalId: 'llm', externalCustomerId: 'polar-llm', timestamp: new Date(at()) },
        metadata: { _llm: llm, _cost: { amount: 0.23, currency: 'usd' } },
      },
    ],
  });
  const { rows } = await world.admin.usage.recent.query({ merchantId: 'polar-llm' });
  expect(rows).toMatchObject([
    {
      ...{ model: 'gpt-4o', provider: 'openai' },
      metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023', requests: '1' },
    },
  ]);
});
