import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addDays, dayOf, type GroupBy } from '@tally/contracts';
import { createAnalyticsClient, createIngestClient } from '@tally/contracts/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Services, startServices } from './services.ts';

const KEYS = { TALLY_ADMIN_KEY: 'the-admin-key-of-e2e', TALLY_SERVICE_KEY: 'the-service-key-of-e2e' };
const ROWS = 20_000;
const ON = addDays(dayOf(Date.now()), -1);

let folder: string;
let services: Services;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tally-trace-'));
  services = await startServices(KEYS);
});

afterAll(async () => {
  await services?.stop();
  await rm(folder, { recursive: true });
});

test('a trace imported twice, its service killed in the middle of the first time, is counted once to the token', async () => {
  const file = join(folder, 'trace.csv');
  const { prompt, completion } = await writeTrace(file);

  const first = runImport(file);
  const recorded = createIngestClient({ url: services.ingest.url, key: KEYS.TALLY_ADMIN_KEY });
  for (let requests = 0; requests === 0; ) {
    const { metrics } = await recorded.usage.current.query({ merchantId: 'azure', date: ON });
    requests = Number(metrics.requests ?? 0);
  }
  await services.ingest.kill();
  await services.ingest.start();
  expect(await first).toMatchObject({ code: 0, output: expect.stringContaining(`${ROWS} events read`) });
  expect(await runImport(file)).toMatchObject({
    code: 0,
    output: expect.stringContaining(`0 counted, ${ROWS} already there`),
  });

  const analytics = createAnalyticsClient({ url: services.analytics.url, key: KEYS.TALLY_ADMIN_KEY });
  for (const by of ['user', 'model', 'provider', 'apiKey', 'merchant'] satisfies GroupBy[]) {
    const { totals, rows, coverage } = await analytics.analytics.breakdown.query({ startDate: ON, endDate: ON, by });
    const expected = { requests: String(ROWS), promptTokens: String(prompt), completionTokens: String(completion) };
    expect(totals, by).toMatchObject(expected);
    expect(rows, by).toEqual([expect.objectContaining(expected)]);
    expect(coverage.complete).toBe(true);
  }
});

test('a service that is asked to stop flushes what it holds and exits with 0', async () => {
  const client = createIngestClient({ url: services.ingest.url, key: KEYS.TALLY_ADMIN_KEY });
  await client.usage.record.mutate({ entries: [{ id: 'last', merchantId: 'leaving', metrics: { queries: '7' } }] });
  expect(await services.ingest.stop()).toBe(0);
  await services.ingest.start();
  expect(await client.flush.status.query({})).toMatchObject({ pendingKeys: 0, lagMs: 0 });
});

/** A trace in the format of the Azure Public Dataset, and its sums. */
async function writeTrace(file: string): Promise<{ prompt: number; completion: number }> {
  let [prompt, completion] = [0, 0];
  const rows = Array.from({ length: ROWS }, (_, index) => {
    const [p, c] = [(index * 7919) % 4000, (index * 104_729) % 1000];
    prompt += p;
    completion += c;
    const second = String(index % 60).padStart(2, '0');
    const minute = String(Math.floor(index / 60) % 60).padStart(2, '0');
    return `2023-11-16 18:${minute}:${second}.${String(index % 10_000_000).padStart(7, '0')},${p},${c}`;
  });
  await writeFile(file, `TIMESTAMP,ContextTokens,GeneratedTokens\n${rows.join('\r\n')}\r\n`);
  return { prompt, completion };
}

async function runImport(file: string): Promise<{ code: number; output: string }> {
  const script = new URL('../../apps/usage-ingest/dist/sources/files/main.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [script, 'azure-llm', file], {
    env: { PATH: process.env.PATH, ...KEYS, USAGE_INGEST_URL: services.ingest.url },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const [code] = await once(child, 'exit');
  return { code, output };
}
