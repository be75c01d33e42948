import { HTTPError, OpenMeter } from '@openmeter/sdk';
import { expect, test } from 'vitest';
import { clientsWorld } from '../../../test/clients-world.ts';

const world = clientsWorld();
const clientOf = (apiKey = world.adminKey) => new OpenMeter({ baseUrl: `${world.url}/sources/openmeter`, apiKey });
const eventOf = (subject: string, id: string, data: Record<string, unknown>) => ({
  ...{ type: 'prompt', subject, id, source: 'app', data },
});
/** The error of the client: its fields are those of the problem in the answer. */
const refused = (status: number) => expect.objectContaining({ status });

test('the client sends one event and several, each counted once', async () => {
  const { events } = clientOf(await world.keyOf('member'));
  const event = eventOf('ada@example.com', '1', { tokens: 5, model: 'gpt-4o' });
  expect(await events.ingest(event)).toBeUndefined();
  await events.ingest([event, eventOf('ada@example.com', '2', { tokens: '7' })]);
  await events.ingest([]);
  expect(await world.totalsOf('ada@example.com')).toEqual({ requests: '2', tokens: '12' });
});

test('an event that the client stamps itself is an event of its own each time', async () => {
  const { events } = clientOf();
  for (const tokens of [1, 2]) await events.ingest({ type: 'prompt', subject: 'stamped', data: { tokens } });
  expect(await world.totalsOf('stamped')).toEqual({ requests: '2', tokens: '3' });
});

test('the client throws what is wrong with an event, with the status and the detail', async () => {
  const { events } = clientOf();
  const error = await events.ingest(eventOf('b', 'bad', { tokens: -1 })).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(HTTPError);
  expect(error).toMatchObject({ status: 400, title: 'INVALID_ENTRY' });
  await events.ingest([eventOf('b', 'bad', { tokens: -1 }), eventOf('b', 'good', { tokens: 1 })]);
  expect(await world.totalsOf('b')).toEqual({ requests: '1', tokens: '1' });
  await expect(clientOf('unknown').events.ingest(eventOf('b', '2', {}))).rejects.toEqual(refused(401));
  const viewer = clientOf(await world.keyOf('viewer'));
  await expect(viewer.events.ingest(eventOf('b', '2', {}))).rejects.toEqual(refused(403));
  const bound = clientOf(await world.keyOf('member', 'c'));
  await expect(bound.events.ingest(eventOf('b', '2', {}))).rejects.toEqual(refused(403));
  world.failing.before = 1;
  await expect(events.ingest(eventOf('b', '3', { tokens: 2 }))).rejects.toEqual(refused(503));
  await events.ingest(eventOf('b', '3', { tokens: 2 }));
  expect(await world.totalsOf('b')).toEqual({ requests: '2', tokens: '3' });
});

test('meters are created, listed and found; what Tally cannot sum exactly is refused', async () => {
  const { meters } = clientOf();
  const definition = {
    ...{ slug: 'tokens', eventType: 'prompt', aggregation: 'SUM' as const, valueProperty: '$.tokens' },
    groupBy: { model: '$.model', region: '$.region' },
  };
  const created = await meters.create(definition);
  expect(created).toMatchObject({ ...definition, id: expect.any(String), createdAt: expect.any(Date) });
  expect(await meters.list()).toEqual([created]);
  expect(await meters.get('tokens')).toEqual(created);
  expect(await meters.get(created!.id)).toEqual(created);
  await expect(meters.get('none')).rejects.toEqual(refused(404));
  await expect(meters.create(definition)).rejects.toEqual(refused(409));
  await expect(meters.create({ ...definition, slug: 'average', aggregation: 'AVG' })).rejects.toEqual(refused(400));
  await expect(meters.create({ ...definition, slug: 'renamed', groupBy: { m: '$.model' } })).rejects.toEqual(
    refused(400),
  );
  const member = clientOf(await world.keyOf('member'));
  await expect(member.meters.create({ ...definition, slug: 'other' })).rejects.toEqual(refused(403));
});

test('meters are listed in pages, in any order', async () => {
  const { meters } = clientOf();
  const slugs = ['b_page', 'c_page', 'a_page'];
  for (const slug of slugs) await meters.create({ slug, eventType: 'pages', aggregation: 'COUNT' });
  // The client sends no page; programs that call the API themselves do.
  const list = (query: string) =>
    fetch(`${world.url}/sources/openmeter/api/v1/meters?${query}`, {
      headers: { authorization: `Bearer ${world.adminKey}` },
    });
  const pages: string[][] = [];
  for (let page = 1; pages.at(-1)?.length !== 0; page++) {
    const found = (await (await list(`page=${page}&pageSize=2&orderBy=key&order=DESC`)).json()) as { slug: string }[];
    pages.push(found.map(({ slug }) => slug));
  }
  expect(pages.every(({ length }) => length <= 2)).toBe(true);
  expect(pages.flat().filter((slug) => slugs.includes(slug))).toEqual(['c_page', 'b_page', 'a_page']);
  expect((await list('pageSize=1001')).status).toBe(400);
});

test('a meter is renamed and removed, and its dimensions stay', async () => {
  const { meters } = clientOf();
  const groupBy = { region: '$.region' };
  await meters.create({ slug: 'renamed', eventType: 'prompt', aggregation: 'COUNT', groupBy });
  expect(await meters.update('renamed', { name: 'Calls', groupBy })).toMatchObject({ slug: 'renamed', name: 'Calls' });
  await expect(meters.update('renamed', { groupBy: { model: '$.model' } })).rejects.toEqual(refused(400));
  const member = clientOf(await world.keyOf('member'));
  await expect(member.meters.update('renamed', { name: 'x' })).rejects.toEqual(refused(403));
  await expect(member.meters.delete('renamed')).rejects.toEqual(refused(403));
  expect(await meters.get('renamed')).toMatchObject({ name: 'Calls' });
  expect(await meters.delete('renamed')).toBeUndefined();
  await expect(meters.get('renamed')).rejects.toEqual(refused(404));
  await expect(meters.delete('renamed')).rejects.toEqual(refused(404));
});

test('the newest events of a subject are listed with what is kept of their data', async () => {
  const { events } = clientOf(await world.keyOf('member'));
  const time = (minutes: number) => new Date(world.clock.now - minutes * 60_000);
  const eventAt = (id: string, minutes: number, data: Record<string, unknown>) => ({
    ...eventOf('listed', id, data),
    time: time(minutes),
  });
  const data = { tokens: 5, text: 'a', ok: true, model: 'gpt-4o', user: 'ada', half: '5.0' };
  await events.ingest([eventAt('old', 9, { tokens: 1 }), eventAt('new', 3, data)]);
  expect(await events.list({ subject: 'listed' })).toEqual([
    { event: { specversion: '1.0', ...eventAt('new', 3, data) } },
    { event: { specversion: '1.0', ...eventAt('old', 9, { tokens: 1 }) } },
  ]);
  const idsOf = async (query: Parameters<typeof events.list>[0]) =>
    (await events.list({ subject: 'listed', ...query }))?.map(({ event }) => event.id);
  expect(await idsOf({ limit: 1 })).toEqual(['new']);
  expect(await idsOf({ from: time(9), to: time(3) })).toEqual(['old']);
  expect(await idsOf({ id: 'ne' })).toEqual(['new']);
  await expect(events.list({ subject: 'listed', limit: 101 })).rejects.toEqual(refused(400));
  await expect(events.list({ customerId: ['c'] })).rejects.toEqual(refused(400));
  const bound = clientOf(await world.keyOf('member', 'listed'));
  expect(await bound.events.list()).toHaveLength(2);
  await expect(bound.events.list({ subject: 'other' })).rejects.toEqual(refused(403));
});

test('the newest events are listed in pages, by the filters of the second version', async () => {
  const { events } = clientOf(await world.keyOf('member'));
  const time = (minutes: number) => new Date(world.clock.now - minutes * 60_000);
  const eventAt = (id: string, minutes: number, type = 'prompt') => ({
    ...{ ...eventOf('paged', id, { tokens: 1 }), type, time: time(minutes) },
  });
  await events.ingest([eventAt('a', 9), eventAt('b', 7), eventAt('c', 7), eventAt('d', 3, 'other')]);
  const list = (filter: object, more: object = {}) =>
    events.listV2({ filter: JSON.stringify({ subject: { $eq: 'paged' }, ...filter }), ...more });
  const idsOf = (page: Awaited<ReturnType<typeof events.listV2>>) => page!.items.map(({ event }) => event.id);
  const [first, all] = [await list({}, { limit: 2 }), await list({})];
  expect([idsOf(first), idsOf(all), all?.nextCursor]).toEqual([['d', 'c'], ['d', 'c', 'b', 'a'], undefined]);
  const second = await list({}, { limit: 2, cursor: first!.nextCursor });
  expect([idsOf(second), second?.nextCursor]).toEqual([['b', 'a'], undefined]);
  expect(first!.items[0]).toEqual({ event: { specversion: '1.0', ...eventAt('d', 3, 'other') } });
  expect(idsOf(await list({ type: { $in: ['other'] } }))).toEqual(['d']);
  expect(idsOf(await list({ id: { $in: ['a', 'c'] }, source: { $eq: 'app' } }))).toEqual(['c', 'a']);
  expect(idsOf(await list({ time: { $gte: time(7), $lt: time(3) } }))).toEqual(['c', 'b']);
  for (const filter of [{ customerId: { $eq: 'c' } }, { type: { $like: 'p%' } }, { time: { $eq: time(7) } }])
    await expect(list(filter)).rejects.toEqual(refused(400));
  await expect(events.listV2({ filter: '{' })).rejects.toEqual(refused(400));
  const bound = clientOf(await world.keyOf('member', 'other'));
  await expect(bound.events.listV2({ filter: '{"subject":{"$eq":"paged"}}' })).rejects.toEqual(refused(403));
});

test('what Tally does not have is not found, in the shape of the product', async () => {
  const { customers, portal, features, meters } = clientOf();
  const absent = { status: 404, title: 'NOT_FOUND', message: expect.stringContaining('Tally does not have') };
  await expect(customers.list()).rejects.toMatchObject(absent);
  await expect(portal.create({ subject: 'acme' })).rejects.toMatchObject(absent);
  await expect(features.list()).rejects.toMatchObject(absent);
  await meters.create({ slug: 'as_csv', eventType: 'prompt', aggregation: 'COUNT' });
  const answer = await fetch(`${world.url}/sources/openmeter/api/v1/meters/as_csv/query`, {
    headers: { authorization: `Bearer ${world.adminKey}`, accept: 'text/csv' },
  });
  expect([answer.status, answer.headers.get('content-type')]).toEqual([400, 'application/problem+json']);
  expect(await answer.json()).toMatchObject({ detail: expect.stringContaining('/export/meter.csv') });
});

test('filters that Tally does not have are refused in both forms of a query', async () => {
  const { meters } = clientOf();
  await meters.create({ slug: 'filtered', eventType: 'prompt', aggregation: 'COUNT' });
  await expect(meters.query('filtered', { filterCustomerId: ['c'] })).rejects.toEqual(refused(400));
  await expect(meters.queryPost('filtered', { filterCustomerId: ['c'] })).rejects.toEqual(refused(400));
  const filters = { advancedMeterGroupByFilters: { model: { $eq: 'gpt-4o' } } };
  await expect(meters.queryPost('filtered', filters)).rejects.toEqual(refused(400));
});
