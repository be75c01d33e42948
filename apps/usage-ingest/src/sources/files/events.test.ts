import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { csvRows } from '@tally/service';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Fixture, startIngest } from '../../../test/ingest-fixture.ts';
import { readEvents } from './events.ts';
import { sendEntries } from './send.ts';

let folder: string;
let ingest: Fixture;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-files-'));
  ingest = await startIngest();
});
afterAll(async () => {
  await ingest.close();
  await rm(folder, { recursive: true });
});

async function all<T>(source: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of source) items.push(item);
  return items;
}

async function fileOf(name: string, text: string): Promise<string> {
  const file = join(folder, name);
  await writeFile(file, text);
  return file;
}
const read = async (name: string, text: string) => all(readEvents(await fileOf(name, text), {}));

const CSV = `time,id,merchantId,userId,status,count,queries,prompt_tokens,properties
2026-11-22T10:00:00Z,a,acme,"Ada ""the first"", Countess",success,1,3,,"{""region"":""eu""}"
2026-11-22T10:00:01Z,b,acme,,failure,2,,374,
`;

test('reads CSV: fields of an event, and metric types', async () => {
  expect(await read('events.csv', CSV)).toEqual([
    {
      id: 'a',
      merchantId: 'acme',
      time: '2026-11-22T10:00:00Z',
      userId: 'Ada "the first", Countess',
      status: 'success',
      count: '1',
      metrics: { queries: '3' },
      properties: { region: 'eu' },
    },
    {
      id: 'b',
      merchantId: 'acme',
      time: '2026-11-22T10:00:01Z',
      status: 'failure',
      count: '2',
      metrics: { prompt_tokens: '374' },
    },
  ]);
});

test('reads what an export of events wrote, without what Tally derived', async () => {
  const exported = { id: 'x', merchantId: 'acme', time: '2026-11-22T10:00:00.000Z', date: '2026-11-22', userId: null };
  const metrics = { requests: '1', cost: '0.5' };
  const event = { id: 'x', merchantId: 'acme', time: exported.time, metrics: { cost: '0.5' } };
  expect(await read('export.ndjson', `${JSON.stringify({ ...exported, metrics })}\n`)).toEqual([event]);
  const csv = 'time,date,id,merchantId,requests,cost,metrics\n2026-11-22T10:00:00.000Z,2026-11-22,x,acme,1,0.5,{}\n';
  expect(await read('export.csv', csv)).toEqual([event]);
});

test('counts a file once, however often it is imported', async () => {
  const lines = CSV.replaceAll(',a,', ',,').replaceAll(',b,', ',,');
  const file = await fileOf('twice.csv', lines);
  const send = () => sendEntries(readEvents(file, {}), { client: ingest.admin, onBatch() {} });
  expect(await send()).toMatchObject({ entries: 2, accepted: 2, rejected: [] });
  expect(await send()).toMatchObject({ entries: 2, accepted: 0, duplicates: 2, rejected: [] });
  const { rows } = await ingest.admin.usage.recent.query({ merchantId: 'acme' });
  expect(rows.map(({ id }) => id).sort()).toEqual(['twice.csv:2', 'twice.csv:3']);
});

test.each([
  ['no-time.ndjson', '{"id":"a"}', /no-time\.ndjson:1: the event has no time\.$/],
  ['broken.ndjson', '{"time":1}\n{"id"', /broken\.ndjson:2: this is not JSON\.$/],
  ['list.ndjson', '[]', /list\.ndjson:1: expected a JSON object\.$/],
  ['short.csv', 'id,time\na\n', /short\.csv:2: the row has 1 cells, the first row has 2\.$/],
  ['repeated.csv', 'id,cost,cost\na,1,2\n', /repeated\.csv:1: the column "cost" is there twice\.$/],
  ['open.csv', 'id,time\n"a,b\n', /The row at line 2 ends in the middle of a quoted cell\.$/],
  ['behind.csv', 'id,time\n"a"b,c\n', /Line 2: there is text after the closing quote of a cell\.$/],
])('names the place that cannot be read: %s', async (name, text, problem) => {
  await expect(read(name, text)).rejects.toThrow(problem);
});

test('CSV has the cells that were written, wherever its text is cut', async () => {
  const cell = fc.string({ unit: fc.constantFrom('a', '"', ',', '\n', ' ', 'é', '😀') });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(cell, { minLength: 2, maxLength: 4 }), { minLength: 1 }),
      fc.nat(40),
      async (rows, cut) => {
        const text = rows.map((cells) => cells.map((each) => `"${each.replaceAll('"', '""')}"`).join(',')).join('\r\n');
        const characters = [...text];
        const chunks = [characters.slice(0, cut).join(''), characters.slice(cut).join('')];
        const found = await all(
          csvRows(
            (async function* () {
              yield* chunks;
            })(),
          ),
        );
        expect(found.map(({ cells }) => cells)).toEqual(rows);
      },
    ),
    { numRuns: 300 },
  );
});
