import { readFileSync } from 'node:fs';
import { type FreshStore, freshDatabase } from '@tally/testkit';
import pg from 'pg';
import { test } from 'vitest';
import { createAdmission } from './admission.ts';
import type { LineToAppend } from './journal-line.ts';
import { columnsOf } from './line-columns.ts';
import { openDb } from './open-db.ts';
import { migrate } from './schema.ts';

const EVENTS = 5_000;
const median = (xs: number[]) => xs.sort((a, b) => a - b)[Math.floor(xs.length / 2)]!;

test('measure', async () => {
  const store: FreshStore = await freshDatabase(migrate);
  const db = await openDb(store.url, { poolSize: 2 });
  const client = new pg.Client({ connectionString: store.url });
  await client.connect();
  await client.query(`set work_mem = '32MB'`);
  const now = readFileSync(new URL('../sql/append.sql', import.meta.url), 'utf8');
  const before = readFileSync('/tmp/append-before.sql', 'utf8');
  let serial = 0;
  const batch = (date: string, hour: number, users: (i: number) => string): LineToAppend[] =>
    Array.from({ length: EVENTS }, (_, i) => {
      const n = serial++;
      return {
        ...{ merchant_id: `m${(i * 7919) % 1000}`, date, id: `550e8400-e29b-41d4-a716-${String(n).padStart(12, '0')}` },
        ...{ time: Date.parse(`${date}T${String(hour).padStart(2, '0')}:00:00Z`) + i, requests: '1', origin: `b${serial}:${i}` },
        ...{ user_id: users(i), api_key: `k${i % 3}`, model: `model-${i % 8}`, provider: 'openai' },
        ...{ prompt_tokens: String(300 + i), completion_tokens: '44', cost: String(2300000 + i) },
      };
    });
  const known = (i: number) => `user-${i % 500}`;
  await db.journal.append({ source: 'stream', lines: batch('2026-03-01', 12, known) });
  const times: Record<string, number[]> = { before: [], now: [], nowNear: [], wholeKnown: [], wholeNew: [] };
  const explain = async (text: string, values: unknown[]) => {
    await client.query('begin');
    const { rows } = await client.query(`explain (analyze, format json) ${text}`, values);
    await client.query('commit');
    return rows[0]['QUERY PLAN'][0]['Execution Time'] as number;
  };
  for (let round = 0; round < 12; round++) {
    const old = columnsOf(batch('2026-03-01', 12, known));
    times.before!.push(await explain(before, ['stream', ...old.slice(0, 17), ...old.slice(18)]));
    times.now!.push(await explain(now, ['stream', ...columnsOf(batch('2026-03-01', 12, known))]));
  }
  // The claims of a batch whose times are all near a midnight.
  const claim = readFileSync(new URL('../sql/claim-midnights.sql', import.meta.url), 'utf8');
  const claims: number[] = [];
  for (let round = 0; round < 8; round++) {
    const lines = batch('2026-03-01', 0, known);
    const column = (of: (line: LineToAppend) => string) => lines.map(of);
    claims.push(
      await explain(claim, [
        column((line) => line.date), column((line) => line.merchant_id), column((line) => line.id), column((line) => line.date),
      ]),
    );
  }
  // What the admission costs the process and Postgres, where all values are known, and where every user is new.
  const admission = createAdmission(10_000);
  let queries = 0;
  const executor = { query: async (text: string, values?: readonly unknown[]) => (queries++, (await client.query(text, values as unknown[])).rows) };
  const warm = batch('2026-03-01', 12, known);
  (await admission.admit(executor, warm)).committed();
  (await admission.admit(executor, warm)).committed();
  const cpu: number[] = [];
  queries = 0;
  for (let round = 0; round < 12; round++) {
    const lines = batch('2026-03-01', 12, known);
    const start = process.cpuUsage();
    (await admission.admit(executor, lines)).committed();
    const used = process.cpuUsage(start);
    cpu.push((used.user + used.system) / EVENTS);
  }
  const asked = queries;
  const fresh: number[] = [];
  for (let round = 0; round < 6; round++) {
    const lines = batch('2026-03-01', 12, (i) => `new-${round}-${i}`);
    const start = performance.now();
    (await admission.admit(executor, lines)).committed();
    fresh.push(performance.now() - start);
  }
  const lines = batch('2026-03-01', 12, (i) => `newer-${i}`);
  const admit = readFileSync(new URL('../sql/admit-values.sql', import.meta.url), 'utf8');
  const merchants = [...new Set(lines.map((line) => line.merchant_id))];
  const values = merchants.map((id) => JSON.stringify(lines.filter((line) => line.merchant_id === id).map((line) => line.user_id)));
  const inserted = await explain(admit, [merchants, merchants.map(() => '2026-03-01'), merchants.map(() => 0), merchants.map(() => 99), values]);
  console.log(
    JSON.stringify({
      before: median(times.before!), beforeMin: Math.min(...times.before!), now: median(times.now!), nowMin: Math.min(...times.now!),
      claims: median(claims), claimsMin: Math.min(...claims),
      admitKnownCpuUsPerEvent: median(cpu), admitKnownCpuMin: Math.min(...cpu), asked, admitNewMsWall: median(fresh), admitNewStatementMs: inserted,
    }),
  );
  await client.end();
  await db.close();
  await store.drop();
}, 600_000);
