import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createIngestClient } from '@tally/contracts/client';
import { migrate } from '@tally/db';
import { startServiceProcess } from '@tally/testkit';
import { expect, test } from 'vitest';
import { startServers } from '../../infra/local/servers.mjs';

const ADMIN = 'the-admin-key-of-the-platform';
/** More than any cache of keys holds. */
const FLOOD = 10_100;
const AT_ONCE = 64;
const LIMIT = 100;

test('a flood of made-up keys costs few lookups, and a good key works through it and through an outage after it', async () => {
  const home = await mkdtemp(join(tmpdir(), 'tally-flood-'));
  const servers = await startServers({ home, durable: false });
  await migrate(servers.databaseUrl);
  const ingest = await startServiceProcess('usage-ingest', {
    DATABASE_URL: servers.databaseUrl,
    REDIS_URL: servers.redisUrl,
    TALLY_ADMIN_KEY: ADMIN,
    UNKNOWN_KEYS_PER_MINUTE: String(LIMIT),
    LOG_LEVEL: 'fatal',
  });
  const { keys } = createIngestClient({ url: ingest.url, key: ADMIN });
  const good = await keys.create.mutate({ name: 'good', role: 'producer' });
  const unused = await keys.create.mutate({ name: 'unused', role: 'producer' });
  const agent = new Agent({ keepAlive: true, maxSockets: AT_ONCE });
  let sent = 0;
  const record = async (key: string) => {
    const entries = [{ id: `entry-${sent++}`, merchantId: 'acme', metrics: { prompt_tokens: '1' } }];
    const { status, body } = await post(`${ingest.url}/trpc/usage.record`, key, JSON.stringify({ entries }), agent);
    return { status, code: /"code":"([A-Z_]+)"/.exec(body)?.[1] ?? 'OK' };
  };
  try {
    expect(await record(good.key)).toEqual({ status: 200, code: 'OK' });

    const codes = new Map<string, number>();
    const minutes = Math.floor(Date.now() / 60_000);
    let next = 0;
    const attack = async () => {
      while (next < FLOOD) {
        const { code } = await record(`tally_admin_made-up-${next++}`);
        codes.set(code, (codes.get(code) ?? 0) + 1);
        if (next % 100 === 0) expect((await record(good.key)).code).toBe('OK');
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, attack));
    const passed = Math.floor(Date.now() / 60_000) - minutes + 1;
    expect([...codes.keys()].sort()).toEqual(['RATE_LIMITED', 'UNAUTHORIZED']);
    // Four lookups run at once, so three more than the limit may have begun.
    expect(codes.get('UNAUTHORIZED')).toBeLessThanOrEqual(passed * (LIMIT + 3));

    await servers.postgres.kill();
    expect(await record(good.key)).toEqual({ status: 200, code: 'OK' });
    // Never 401: nobody can know whether these are valid.
    for (const key of [unused.key, 'tally_admin_made-up'])
      expect(['RATE_LIMITED', 'UNAVAILABLE']).toContain((await record(key)).code);
  } finally {
    agent.destroy();
    await ingest.kill();
    await servers.remove();
    await rm(home, { recursive: true });
  }
});

function post(url: string, key: string, body: string, agent: Agent): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
    const sending = request(url, { method: 'POST', agent, headers }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      response.on('end', () => resolve({ status: response.statusCode!, body: text }));
    });
    sending.on('error', reject);
    sending.end(body);
  });
}
