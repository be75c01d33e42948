import { afterAll, beforeAll, expect, test } from 'vitest';
import { GuardError } from './guard.ts';
import { wrapOpenAI } from './models/openai.ts';
import type { Rejected, TallyOptions } from './options.ts';
import { createTally } from './tally.ts';
import { ADMIN_KEY, startIngest } from './testing/service.ts';

let ingest: Awaited<ReturnType<typeof startIngest>>;
let merchants = 0;

beforeAll(async () => {
  ingest = await startIngest({ FLUSH_INTERVAL_MS: '100' });
});
afterAll(() => ingest?.drop());

function open(options: Partial<TallyOptions> = {}) {
  const rejected: Rejected[] = [];
  const tally = createTally({
    ...{ url: ingest.url, key: ADMIN_KEY, hooks: false, lingerMs: 5, timeoutMs: 60_000 },
    ...{ backoff: { firstMs: 5, mostMs: 40, slowMs: 20 }, onError: () => {} },
    onRejected: (each) => rejected.push(each),
    ...options,
  });
  return { tally, rejected };
}

/** A hard budget of 10 USD for a merchant of its own. */
async function budgeted(tally: ReturnType<typeof open>['tally']) {
  const merchantId = `guarded-${merchants++}`;
  const { id } = await tally.ingest.budgets.create.mutate({
    ...{ scope: { merchantId }, measure: 'cost', limit: '10', period: 'total', enforcement: 'hard' },
  });
  const status = async () => {
    const { spent, reserved } = (await tally.ingest.budgets.status.query({ id })).rows[0]!;
    return { spent, reserved };
  };
  const request = (cost: string, more: object = {}) => ({
    ...{ merchantId, amounts: { cost }, timeoutMs: 60_000 },
    ...more,
  });
  return { merchantId, id, status, request };
}

test('reserves before the call, and settles with what it recorded', async () => {
  const { tally } = open();
  const { merchantId, id, status, request } = await budgeted(tally);
  const answer = await tally.guard(request('6'), async (guarded) => {
    expect(await status()).toEqual({ spent: '0', reserved: '6' });
    expect(guarded.record({ merchantId, metrics: { cost: 2.5 as never } })).toMatchObject({ code: 'INVALID_ENTRY' });
    expect(guarded.record({ merchantId, metrics: { cost: '2.5' } })).toEqual({ ok: true });
    return 'the answer';
  });
  expect(answer).toBe('the answer');
  expect(await status()).toEqual({ spent: '2.5', reserved: '0' });
  let wasCalled = false;
  const refused = tally.guard(request('7.6'), async () => {
    wasCalled = true;
  });
  await expect(refused).rejects.toMatchObject({ name: 'GuardError', code: 'BUDGET_EXCEEDED', refusedBy: [id] });
  expect(wasCalled).toBe(false);
  await tally.close();
});

test('releases where the call throws, or says that it used nothing', async () => {
  const { tally } = open();
  const { status, request } = await budgeted(tally);
  const failed = tally.guard(request('6'), () => Promise.reject(new Error('the model is down')));
  await expect(failed).rejects.toThrow('the model is down');
  expect(await status()).toEqual({ spent: '0', reserved: '0' });
  await tally.guard(request('6'), async (guarded) => guarded.release());
  expect(await status()).toEqual({ spent: '0', reserved: '0' });
  await expect(tally.guard(request('six'), async () => {})).rejects.toMatchObject({ data: { code: 'INVALID_INPUT' } });
  await tally.close();
});

test('settles a stream when it ends, after the call returned', async () => {
  const { tally } = open();
  const { merchantId, status, request } = await budgeted(tally);
  const usage = { prompt_tokens: 1000, completion_tokens: 100, total_tokens: 1100 };
  const client = {
    chat: {
      completions: {
        async create(_: object) {
          return (async function* () {
            yield { model: 'gpt-4o', choices: [{ delta: { content: 'Hi' }, finish_reason: 'stop' }] };
            yield { model: 'gpt-4o', choices: [], usage };
          })();
        },
      },
    },
  };
  const stream = await tally.guard(request('6'), (guarded) =>
    wrapOpenAI(client, { tally: guarded, attributes: { merchantId }, price: () => '1.25' }).chat.completions.create({
      ...{ model: 'gpt-4o', stream: true, stream_options: { include_usage: true } },
    }),
  );
  expect(await status()).toEqual({ spent: '0', reserved: '6' });
  for await (const _ of stream);
  await tally.close();
  expect(await status()).toEqual({ spent: '1.25', reserved: '0' });
});

test('counts a call once whose settlement fails, and its reservation expires', async () => {
  const { tally, rejected } = open();
  const { merchantId, status, request } = await budgeted(tally);
  await tally.guard(request('6', { ttlSeconds: 1 }), async (guarded) => {
    await ingest.kill();
    guarded.record({ merchantId, metrics: { cost: '2' } });
  });
  await ingest.start();
  expect(await tally.flush({ deadlineMs: 60_000 })).toEqual({ ok: true, queued: 0 });
  await expect.poll(status, { timeout: 60_000 }).toEqual({ spent: '2', reserved: '0' });
  expect(await ingest.counted(merchantId)).toMatchObject({ requests: '1', cost: '2000000000' });
  expect(rejected).toEqual([]);
  await tally.close();
});

test('passes an entry that Tally rejects to onRejected', async () => {
  const { tally, rejected } = open();
  const { merchantId, request } = await budgeted(tally);
  await tally.guard(request('6'), async (guarded) => {
    guarded.record({ merchantId, time: Date.now() + 3_600_000, metrics: { cost: '2' } });
  });
  expect(rejected).toMatchObject([{ code: 'TIME_IN_FUTURE', entry: { merchantId } }]);
  await tally.close();
});

test('does what it is told where Tally cannot be reached', async () => {
  const { tally } = open({ fetch: () => Promise.reject(new TypeError('fetch failed')) });
  const request = { merchantId: 'acme', amounts: { cost: '1', tokens: 8000 } };
  expect(await tally.guard(request, async ({ degraded }) => degraded)).toBe(true);
  const refused = tally.guard({ ...request, whenUnreachable: 'refuse' }, async () => {});
  await expect(refused).rejects.toMatchObject({ code: 'BUDGET_UNREACHABLE' });
  await expect(refused).rejects.toBeInstanceOf(GuardError);
  await tally.close({ deadlineMs: 0 });
});
