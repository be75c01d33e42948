import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { createAuthenticate, serviceKeyOf } from './auth.ts';
import type { KnownKey } from './known-keys.ts';

const ADDRESS = '192.0.2.1';

/** A table of keys whose answers a test delays, fails or counts, and a clock that a test moves. */
function setUp({ limit = 100 } = {}) {
  const table = new Map<string, KnownKey>();
  const state = {
    now: Date.parse('2026-11-22T12:00:00Z'),
    lookups: 0,
    unavailable: false,
    /** If set, answers wait for it. */
    held: undefined as Promise<void> | undefined,
    uses: [] as { id: string; at: number }[][],
  };
  const authenticate = createAuthenticate({
    env: { TALLY_ADMIN_KEY: 'the-admin-key-is-long', UNKNOWN_KEYS_PER_MINUTE: limit },
    keys: {
      async findByHash(hash) {
        state.lookups++;
        await state.held;
        if (state.unavailable) throw new Error('connection refused');
        return table.get(hash);
      },
      async recordUse(uses) {
        state.uses.push([...uses]);
      },
    },
    now: () => state.now,
  });
  return {
    state,
    add(secret: string, key: Partial<KnownKey> = {}) {
      const row = { id: secret, role: 'viewer' as const, merchantId: null, teamId: null, expiresAt: null, ...key };
      table.set(hashOf(secret), row);
    },
    revoke: (secret: string) => table.delete(hashOf(secret)),
    hold() {
      let release = () => {};
      state.held = new Promise((resolve) => {
        release = () => {
          state.held = undefined;
          resolve();
        };
      });
      return release;
    },
    ask: (secret: string | undefined, address = ADDRESS) => authenticate({ secret, address }),
  };
}

const hashOf = (secret: string) => createHash('sha256').update(secret).digest('hex');
const codeOf = (answer: Promise<unknown>) =>
  answer.then(
    () => 'OK',
    (error: { code: string }) => error.code,
  );

test('takes services that share only the admin key for services, not for the admin', async () => {
  const { ask } = setUp();
  const env = { TALLY_ADMIN_KEY: 'the-admin-key-is-long' };
  expect(await ask(serviceKeyOf(env))).toMatchObject({ id: 'service', role: 'service' });
  expect(serviceKeyOf({ TALLY_ADMIN_KEY: 'another-admin-key-too' })).not.toBe(serviceKeyOf(env));
  expect(serviceKeyOf({ ...env, TALLY_SERVICE_KEY: 'a-key-of-its-own' })).toBe('a-key-of-its-own');
  expect(serviceKeyOf({})).toBeUndefined();
});

test('returns who a key belongs to, and refuses a missing, malformed or unknown one', async () => {
  const { add, ask } = setUp();
  add('good', { id: 'anna', merchantId: 'acme', teamId: 'blue' });
  expect(await ask('good')).toEqual({ id: 'anna', role: 'viewer', merchantId: 'acme', teamId: 'blue' });
  expect(await ask('the-admin-key-is-long')).toMatchObject({ id: 'admin', role: 'admin' });
  for (const secret of [undefined, '', 'with space', 'ünï', 'x'.repeat(513), 'unknown'])
    expect(await codeOf(ask(secret))).toBe('UNAUTHORIZED');
});

test('refuses a revoked key within a second', async () => {
  const { add, ask, revoke, state } = setUp();
  add('good');
  await ask('good');
  revoke('good');
  state.now += 1_000;
  expect(await codeOf(ask('good'))).toBe('UNAUTHORIZED');
});

test('refuses a revoked key also after the clock was set back', async () => {
  const { add, ask, revoke, state } = setUp();
  add('good');
  await ask('good');
  expect(await codeOf(ask('late'))).toBe('UNAUTHORIZED');
  revoke('good');
  add('late');
  state.now -= 3_600_000;
  expect(await codeOf(ask('good'))).toBe('UNAUTHORIZED');
  expect(await codeOf(ask('late'))).toBe('OK');
});

test('refuses a key from the moment it expires, also while the database is unavailable', async () => {
  const { add, ask, state } = setUp();
  add('good', { expiresAt: new Date(state.now + 500).toISOString() });
  await ask('good');
  state.unavailable = true;
  state.now += 500;
  await expect(ask('good')).rejects.toMatchObject({
    code: 'UNAUTHORIZED',
    message: expect.stringMatching(/expired at 2026/),
  });
});

test('a known key works for an hour while the database is unavailable; others get 503, never 401', async () => {
  const { add, ask, state } = setUp();
  add('good');
  await ask('good');
  state.unavailable = true;
  state.now += 3_599_000;
  expect(await codeOf(ask('good'))).toBe('OK');
  expect(await codeOf(ask('other'))).toBe('UNAVAILABLE');
  state.now += 1_000;
  expect(await codeOf(ask('good'))).toBe('UNAVAILABLE');
});

test('a service that never reached the database answers 503 to every key from the database', async () => {
  const { add, ask, state } = setUp({ limit: 3 });
  add('good');
  state.unavailable = true;
  for (let n = 0; n < 10; n++) expect(await codeOf(ask(n % 2 ? 'good' : `unknown-${n}`))).toBe('UNAVAILABLE');
  state.unavailable = false;
  expect(await codeOf(ask('good'))).toBe('OK');
});

test('while the database is unavailable a known key is looked up once a second, not with each call', async () => {
  const { add, ask, state } = setUp();
  add('good');
  await ask('good');
  state.unavailable = true;
  state.now += 1_000;
  for (let n = 0; n < 100; n++) await ask('good');
  expect(state.lookups).toBe(2);
});

test('a flood of made-up keys evicts no good key', async () => {
  const { add, ask, state } = setUp({ limit: 1_000_000 });
  add('good');
  await ask('good');
  for (let n = 0; n < 12_000; n++) await codeOf(ask(`made-up-${n}`));
  state.unavailable = true;
  state.now += 60_000;
  expect(await codeOf(ask('good'))).toBe('OK');
});

test('of tens of thousands of keys in use, each is looked up once a second', async () => {
  const { add, ask, state } = setUp();
  const secrets = Array.from({ length: 20_000 }, (_, n) => `key-${n}`);
  for (const secret of secrets) add(secret);
  for (const secret of secrets) await ask(secret);
  for (const secret of secrets) await ask(secret);
  expect(state.lookups).toBe(20_000);
});

test('callers of one key share one lookup', async () => {
  const { add, ask, hold, state } = setUp();
  add('good');
  const release = hold();
  const first = Array.from({ length: 50 }, () => ask('good'));
  release();
  await Promise.all(first);
  expect(state.lookups).toBe(1);
  state.now += 1_000;
  await Promise.all(Array.from({ length: 50 }, () => ask('good')));
  expect(state.lookups).toBe(2);
});

test('a known key keeps its answer while its lookup is slow, and is refused when that says so', async () => {
  const { add, ask, hold, revoke, state } = setUp();
  add('good');
  await ask('good');
  state.now += 1_000;
  revoke('good');
  const release = hold();
  expect(await codeOf(ask('good'))).toBe('OK');
  expect(await codeOf(ask('good'))).toBe('OK');
  expect(state.lookups).toBe(2);
  release();
  await expect.poll(() => codeOf(ask('good'))).toBe('UNAUTHORIZED');
});

test('an address that sends too many unknown keys gets 429 without a lookup; known keys from it still work', async () => {
  const { add, ask, state } = setUp({ limit: 5 });
  add('good');
  add('another');
  await ask('good');
  const flood = Array.from({ length: 50 }, (_, n) => codeOf(ask(`made-up-${n}`)));
  // Four lookups run at once, so three more than the limit may have begun.
  expect((await Promise.all(flood)).filter((code) => code === 'UNAUTHORIZED').length).toBeLessThanOrEqual(8);
  const { lookups } = state;
  await expect(ask('made-up')).rejects.toMatchObject({
    code: 'RATE_LIMITED',
    details: { limit: 5, windowSeconds: 60, retryAfter: 60 },
  });
  expect(await codeOf(ask('another'))).toBe('RATE_LIMITED');
  expect(await codeOf(ask('good'))).toBe('OK');
  expect(state.lookups).toBe(lookups);
  expect(await codeOf(ask('another', '192.0.2.2'))).toBe('OK');
  state.now += 60_000;
  expect(await codeOf(ask('made-up'))).toBe('UNAUTHORIZED');
});

test('an unknown key that is sent again and again is looked up every 10 seconds', async () => {
  const { ask, state } = setUp();
  for (let n = 0; n < 100; n++) {
    expect(await codeOf(ask('retired'))).toBe('UNAUTHORIZED');
    state.now += 100;
  }
  expect(state.lookups).toBe(1);
  expect(await codeOf(ask('retired'))).toBe('UNAUTHORIZED');
  expect(state.lookups).toBe(2);
});

test.each([
  ['an IPv4 address, however it is written', '192.0.2.7', '::ffff:192.0.2.7', '192.0.2.8'],
  ['a /64 network of IPv6', '2001:db8:1:2::1', '2001:0DB8:1:2:ffff:ffff:ffff:ffff', '2001:db8:1:3::1'],
  ['a short IPv6 network', '2001:db8::1', '2001:db8:0:0:9::', '2001:db8:1::1'],
])('unknown keys are counted by %s', async (_, first, same, other) => {
  const { ask } = setUp({ limit: 1 });
  await codeOf(ask('a', first));
  expect(await codeOf(ask('b', same))).toBe('RATE_LIMITED');
  expect(await codeOf(ask('b', other))).toBe('UNAUTHORIZED');
});

test('the limit of an address holds for any number of other addresses', async () => {
  const { ask } = setUp({ limit: 1 });
  await codeOf(ask('a', 'victim'));
  for (let n = 0; n < 9_999; n++) await codeOf(ask(`key-${n}`, `address-${n}`));
  expect(await codeOf(ask('b', 'victim'))).toBe('RATE_LIMITED');
});

test('uses are saved in the background: one batch for all keys of a second, a key once a minute', async () => {
  vi.useFakeTimers();
  try {
    const { add, ask, state } = setUp();
    for (const id of ['a', 'b']) add(id);
    const first = state.now;
    for (const id of ['a', 'b', 'a', 'a']) await ask(id);
    expect(state.uses).toEqual([]);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(state.uses).toEqual([
      [
        { id: 'a', at: first },
        { id: 'b', at: first },
      ],
    ]);
    state.now += 59_999;
    await ask('a');
    state.now += 1;
    await ask('a');
    await vi.advanceTimersByTimeAsync(1_000);
    expect(state.uses.slice(1)).toEqual([[{ id: 'a', at: first + 60_000 }]]);
  } finally {
    vi.useRealTimers();
  }
});

test('a valid key never gets 401, and a revoked one works for at most a second while the database answers', async () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant('ask' as const), key: fc.integer({ min: 0, max: 3 }) }),
    fc.record({ do: fc.constant('revoke' as const), key: fc.integer({ min: 0, max: 3 }) }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 20_000 }) }),
    fc.record({ do: fc.constant('fail' as const) }),
    fc.record({ do: fc.constant('heal' as const) }),
    fc.record({ do: fc.constant('flood' as const) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { add, ask, revoke, state } = setUp({ limit: 3 });
      const revokedAt = new Map<number, number>();
      for (let key = 0; key < 4; key++) add(`key-${key}`);
      let made = 0;
      let healedAt = state.now;
      for (const each of steps) {
        if (each.do === 'wait') state.now += each.ms;
        else if (each.do === 'fail') state.unavailable = true;
        else if (each.do === 'heal') {
          if (state.unavailable) healedAt = state.now;
          state.unavailable = false;
        } else if (each.do === 'flood') for (let n = 0; n < 5; n++) await codeOf(ask(`made-up-${made++}`));
        else if (each.do === 'revoke') {
          revoke(`key-${each.key}`);
          if (!revokedAt.has(each.key)) revokedAt.set(each.key, state.now);
        } else {
          const code = await codeOf(ask(`key-${each.key}`));
          const revoked = revokedAt.get(each.key);
          if (revoked === undefined) expect(code).not.toBe('UNAUTHORIZED');
          else if (!state.unavailable && state.now - Math.max(revoked, healedAt) >= 1_000) expect(code).not.toBe('OK');
          else expect(['OK', 'UNAUTHORIZED', 'UNAVAILABLE', 'RATE_LIMITED']).toContain(code);
        }
      }
    }),
    { numRuns: 1_000 },
  );
});
