import { HTTPError, OpenMeter } from '@openmeter/sdk';
import { expect, test } from 'vitest';
import { clientsWorld } from '../../test/clients-world.ts';

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
