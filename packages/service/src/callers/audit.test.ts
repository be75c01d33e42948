import { mutation, query, TallyError } from '@tally/contracts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type Context, serveContract } from '../edge/trpc.ts';
import { createLog } from '../process/log.ts';
import { type AuditOptions, createAudit, summaryOf } from './audit.ts';
import type { Caller } from './auth.ts';

const anything = z.looseObject({});
const contract = {
  change: mutation({ access: 'admin', input: anything, output: anything }),
  define: mutation({ access: 'define', audited: true, input: anything, output: anything }),
  record: mutation({ access: 'record', input: anything, output: anything }),
  look: query({ access: 'admin', input: anything, output: anything }),
} as const;

type Begun = Parameters<AuditOptions['store']['begin']>[0];
type Ended = Parameters<AuditOptions['store']['finish']>[1];

function setUp(handler: (input: Record<string, unknown>) => Promise<Record<string, unknown>>) {
  const rows: (Begun & Partial<Ended>)[] = [];
  const store = {
    unavailable: '' as '' | 'begin' | 'finish',
    async begin(action: Begun) {
      if (store.unavailable === 'begin') throw new TallyError('UNAVAILABLE', 'Postgres is unavailable.');
      return String(rows.push(action) - 1);
    },
    async finish(id: string, { targetId, ...end }: Ended) {
      if (store.unavailable === 'finish') throw new Error('Postgres is unavailable.');
      const row = rows[Number(id)]!;
      Object.assign(row, end, { targetId: row.targetId ?? targetId });
    },
  };
  const run = async ({ input }: { input: Record<string, unknown> }) => handler(input);
  const handlers = { change: run, define: run, record: run, look: run };
  const log = createLog('test', 'silent');
  const router = serveContract(contract, handlers, createAudit({ service: 'here', store, log }));
  const caller: Caller = { id: 'anna', role: 'admin', merchantId: null, teamId: null };
  const callAs = (who: Partial<Caller>) => {
    const context: Context = {
      caller: { ...caller, ...who },
      event: {},
      stopping: new AbortController().signal,
      isGone: () => false,
    };
    return router.createCaller(context) as unknown as Record<
      keyof typeof contract,
      (input: Record<string, unknown>) => Promise<unknown>
    >;
  };
  return { rows, store, callAs, admin: callAs({}) };
}

describe('the audit log', () => {
  test('has a row for each administrative mutation: who, what, on what and how it ended', async () => {
    const { rows, admin, callAs } = setUp(async () => ({ id: 'new' }));
    await admin.change({ merchantId: 'acme', reason: 'typo' });
    await callAs({ id: 'bert', role: 'analyst', merchantId: 'globex' }).define({ id: 'metric' });
    const known = { service: 'here', outcome: 'ok', durationMs: expect.any(Number) };
    expect(rows).toEqual([
      {
        ...known,
        action: 'change',
        actor: 'anna',
        role: 'admin',
        actorMerchantId: null,
        merchantIds: ['acme'],
        targetId: 'new',
        input: { merchantId: 'acme', reason: 'typo' },
      },
      {
        ...known,
        action: 'define',
        actor: 'bert',
        role: 'analyst',
        actorMerchantId: 'globex',
        merchantIds: ['globex'],
        targetId: 'metric',
        input: { id: 'metric' },
      },
    ]);
  });

  test('has no row for queries, for other mutations and for calls that were refused', async () => {
    const { rows, admin, callAs } = setUp(async () => ({}));
    await admin.look({});
    await admin.record({});
    await expect(callAs({ role: 'viewer' }).change({})).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(admin.change([] as never)).rejects.toMatchObject({ code: 'BAD_REQUEST' });
    expect(rows).toEqual([]);
  });

  test('says of a failed mutation how it failed', async () => {
    const { rows, admin } = setUp(async ({ how }) => {
      if (how === 'known') throw new TallyError('CONFLICT', 'It is taken.');
      if (how === 'unknown') throw new Error('the password is swordfish');
      return how === 'run' ? { status: 'FAILED' } : { success: false };
    });
    await expect(admin.change({ how: 'known' })).rejects.toThrow('It is taken.');
    await expect(admin.change({ how: 'unknown' })).rejects.toThrow();
    await admin.change({ how: 'run' });
    await admin.change({ how: 'partly' });
    expect(rows.map(({ outcome }) => outcome)).toEqual(['CONFLICT', 'INTERNAL', 'failed', 'failed']);
    expect(JSON.stringify(rows)).not.toContain('swordfish');
  });

  test('a mutation that cannot be recorded does not run', async () => {
    let runs = 0;
    const { admin, store } = setUp(async () => ({ runs: ++runs }));
    store.unavailable = 'begin';
    await expect(admin.change({})).rejects.toMatchObject({ code: 'SERVICE_UNAVAILABLE' });
    expect(runs).toBe(0);
  });

  test('a mutation that ran is answered, also where its outcome cannot be recorded', async () => {
    const { rows, admin, store } = setUp(async () => ({ done: true }));
    store.unavailable = 'finish';
    expect(await admin.change({})).toEqual({ done: true });
    expect(rows).toMatchObject([{ action: 'change' }]);
    expect(rows[0]!.outcome).toBeUndefined();
  });

  test('a contract with administrative mutations is not served without it', () => {
    const run = async () => ({});
    const serve = () => serveContract(contract, { change: run, define: run, record: run, look: run });
    expect(serve).toThrow('change is audited');
  });
});

describe('the summary of an input', () => {
  test('has no secrets', () => {
    const summary = summaryOf({
      name: 'hook',
      secret: 'swordfish',
      rotateSecret: true,
      webhook: { clientSecret: 'swordfish', url: 'https://anna:swordfish@hooks.example/swordfish?key=swordfish' },
      keys: ['tally_admin_swordfish', 'sk-swordfish', 'whsec_swordfish'],
      callbackUrl: 'swordfish',
    });
    expect(JSON.stringify(summary)).not.toContain('swordfish');
    expect(summary).toMatchObject({ name: 'hook', rotateSecret: true, webhook: { url: 'https://hooks.example' } });
  });

  test('shows of a long list its length and its first items', () => {
    const entries = Array.from({ length: 500 }, (_, n) => ({ id: `user-${n}` }));
    expect(summaryOf({ entries })).toEqual({ entries: { count: 500, first: entries.slice(0, 10) } });
  });

  test('is small and can be stored, whatever the input', () => {
    const text = fc.string({ unit: 'binary', maxLength: 2_000 });
    const odd = fc.constantFrom('\0', '\ud800', 'x'.repeat(1_000));
    const { input } = fc.letrec<{ input: object; value: unknown }>((tie) => ({
      value: fc.oneof({ maxDepth: 6 }, text, odd, fc.double(), fc.array(tie('value')), tie('input')),
      input: fc.dictionary(fc.oneof(text, odd), tie('value'), { maxKeys: 50 }),
    }));
    fc.assert(
      fc.property(input, (each) => {
        const stored = JSON.stringify(summaryOf(each));
        expect(stored.length).toBeLessThan(30_000);
        expect(stored).not.toMatch(/\\u0000|\\ud[89a-f]/);
      }),
    );
  });
});
