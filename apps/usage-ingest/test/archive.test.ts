import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { UsageEntry } from '@tally/contracts';
import { startRelay } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startIngest } from './ingest-fixture.ts';

const DAY = '2026-11-22';
const PAST_RETENTION_MS = 36 * 86_400_000;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-archive-'));
});
afterAll(() => rm(folder, { recursive: true }));

const ENTRIES: UsageEntry[] = [
  {
    ...{
      id: 'a',
      merchantId: 'acme',
      time: `${DAY}T10:00:00.123Z`,
      userId: 'ada',
      apiKey: 'k',
      model: 'm',
      provider: 'p',
    },
    ...{ status: 'failure', count: 3, metrics: { prompt_tokens: '10', cost: '0.000000001', seats: '900719925474099' } },
    properties: { region: 'eu', retried: true, attempt: 2 },
  },
  { id: 'b', merchantId: 'acme', time: `${DAY}T11:00:00.000Z`, metrics: { completion_tokens: '5' } },
];

test('a day is archived before its events are dropped, in the form in which they were recorded', async () => {
  const ingest = await startIngest({ ARCHIVE_FOLDER: folder });
  expect(await ingest.admin.usage.record.mutate({ entries: ENTRIES })).toMatchObject({ accepted: 2 });
  await ingest.admin.flush.drain.mutate({});
  ingest.clock.now = Date.now() + PAST_RETENTION_MS;
  expect(await ingest.admin.journal.close.mutate({})).toEqual({ closed: [DAY] });
  expect(await readdir(folder)).toEqual([`${DAY}.ndjson.gz`]);
  const lines = gunzipSync(await readFile(join(folder, `${DAY}.ndjson.gz`)))
    .toString()
    .trim()
    .split('\n');
  expect(lines.map((line) => JSON.parse(line))).toEqual([ENTRIES[0], { ...ENTRIES[1], status: 'success', count: 1 }]);
  await ingest.close();
});

test('a process that finds a day closed by another one leaves its archive', async () => {
  const settings = { ARCHIVE_FOLDER: join(folder, 'shared') };
  const ingest = await startIngest(settings);
  expect(await ingest.admin.usage.record.mutate({ entries: ENTRIES })).toMatchObject({ accepted: 2 });
  await ingest.admin.flush.drain.mutate({});
  const address = new URL(ingest.databaseUrl);
  const relay = await startRelay({ host: address.hostname, port: Number(address.port) });
  address.port = String(relay.port);
  const { databaseUrl, redisUrl } = { ...ingest, databaseUrl: address.toString() };
  const late = await startIngest(settings, undefined, { databaseUrl, redisUrl });
  for (const { clock } of [ingest, late]) clock.now = Date.now() + PAST_RETENTION_MS;
  const asking = relay.hold('Returns days of the journal before');
  const closing = late.admin.journal.close.mutate({});
  await asking.caught;
  asking.release();
  // It knows which days to close, and has not begun.
  const held = relay.hold('START TRANSACTION');
  await held.caught;
  expect(await ingest.admin.journal.close.mutate({})).toEqual({ closed: [DAY] });
  held.release();
  expect(await closing).toEqual({ closed: [] });
  const archived = gunzipSync(await readFile(join(settings.ARCHIVE_FOLDER, `${DAY}.ndjson.gz`))).toString();
  expect(archived.trim().split('\n')).toHaveLength(ENTRIES.length);
  await late.close();
  relay.close();
  await ingest.close();
});

test('a day that cannot be archived, or that grew after it was, keeps its events', async () => {
  const file = join(folder, 'no-folder');
  await writeFile(file, '');
  const ingest = await startIngest({ ARCHIVE_FOLDER: file });
  expect(await ingest.admin.usage.record.mutate({ entries: ENTRIES })).toMatchObject({ accepted: 2 });
  await ingest.admin.flush.drain.mutate({});
  ingest.clock.now = Date.now() + PAST_RETENTION_MS;
  expect(await ingest.admin.journal.close.mutate({})).toEqual({ closed: [] });
  expect(await ingest.db.partitions.close(DAY, ENTRIES.length - 1)).toBe(false);
  expect(await ingest.db.partitions.close(DAY, ENTRIES.length)).toBe(true);
  await ingest.close();
});
