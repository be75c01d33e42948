import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@tally/db';
import { assertBuilt, freshDatabase, freshRedis } from '@tally/testkit';
import { expect, test } from 'vitest';

test('npm start with a setting that no service can use fails at once, and says which and where', async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  const home = await mkdtemp(join(tmpdir(), 'tally-start-'));
  const child = spawn(process.execPath, [new URL('../../infra/local/start.mjs', import.meta.url).pathname], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      TALLY_HOME: home,
      TALLY_PORT_BASE: String(20_000 + Math.floor(Math.random() * 10_000)),
      DATABASE_URL: database.url,
      REDIS_URL: redis.url,
      ROLLUP_TIMEOUT_MS: 'soon',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const [code] = await once(child, 'exit');
  expect([code, output]).toEqual([
    1,
    expect.stringMatching(/npm start failed: metrics-engine ended \(78\):[\s\S]*ROLLUP_TIMEOUT_MS: /),
  ]);
  expect(output).not.toMatch(/started again|not ready/);
  await Promise.all([rm(home, { recursive: true }), database.drop(), redis.drop()]);
});

test.each(['usage-ingest', 'metrics-engine', 'analytics-api', 'console'])(
  '%s does not start without any key',
  async (app) => {
    assertBuilt(`apps/${app}`);
    const child = spawn(process.execPath, [new URL(`../../apps/${app}/dist/main.js`, import.meta.url).pathname], {
      env: { PATH: process.env.PATH, DATABASE_URL: 'postgres://127.0.0.1:1/tally', REDIS_URL: 'redis://127.0.0.1:1' },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let output = '';
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
    const [code] = await once(child, 'close');
    expect([code, output]).toEqual([78, expect.stringContaining('TALLY_ADMIN_KEY and TALLY_SERVICE_KEY are not set')]);
  },
);
