import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { assertBuilt, runsOf } from '@tally/testkit';
import { expect, test } from 'vitest';

const RUNS = Number(process.env.TALLY_CHAOS_RUNS ?? runsOf({ short: 3, long: 8 }));

test(`${RUNS} runs of killed services and stores lose nothing, double nothing and leave the books balanced`, async () => {
  assertBuilt('apps/usage-ingest');
  const script = new URL('../chaos/main.mjs', import.meta.url).pathname;
  const child = spawn(process.execPath, [script, '--runs', String(RUNS)], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const [code] = await once(child, 'exit');
  expect(code, output).toBe(0);
}, 980_000);
