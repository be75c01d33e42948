import { addDays, dayOf } from '@tally/contracts';
import { runsOf } from '@tally/testkit';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { EVENTS, eventOf, KEY, LitellmWorld, LOGS, payloadOf } from '../../../test/litellm-world.ts';

const world = new LitellmWorld();

describe('a call that is pushed and pulled', () => {
  test('counts once around a midnight, whichever time is reported first', async () => {
    world.day = addDays(dayOf(Date.now()), -2);
    const next = addDays(world.day, 1);
    world.litellm.rows = ['x', 'y', 'z'].map((id) =>
      world.row(`midnight-${id}`, { startTime: `${world.day}T23:59:58.000Z` }),
    );
    const sent = (id: string) =>
      world.push(JSON.stringify(eventOf(`midnight-${id}`, `${next}T00:00:01.500000+00:00`)), { path: EVENTS });
    expect((await sent('x')).status).toBe(204);
    await world.push(JSON.stringify([payloadOf(world.litellm.rows[1]!)]));
    const before = BigInt((await world.totals(world.day, next)).requests);
    expect(await world.pull(world.day, next)).toMatchObject({ calls: 3, accepted: 1, duplicates: 2 });
    await sent('y');
    await sent('z');
    expect(BigInt((await world.totals(world.day, next)).requests)).toBe(before + 1n);
    world.day = addDays(dayOf(Date.now()), -150);
  });

  test('counts once for a cache hit, whose ids differ', async () => {
    world.day = addDays(dayOf(Date.now()), -5);
    world.litellm.rows = [world.row('same_cache_hit1763781050.123', { cache_hit: 'True', spend: '0' })];
    const [reported] = world.litellm.rows;
    await world.push(JSON.stringify([payloadOf({ ...reported!, request_id: 'same_cache_hit1763781050.129' })]));
    expect(await world.pull()).toMatchObject({ accepted: 0, duplicates: 1 });
    world.day = addDays(dayOf(Date.now()), -180);
  });

  beforeEach(() => {
    // Only pushes of recent days are accepted.
    world.day = addDays(dayOf(Date.now()), -2);
  });
  const promptsOf = async (merchant: string) => {
    const totals = await world.running.counted(addDays(world.day, -1), addDays(world.day, 1), merchant);
    return [totals.requests, totals.promptTokens];
  };

  test.each(['response', 'call'])('counts once where rows have the %s id', async (by) => {
    const merchant = `rows-by-${by}`;
    const { app, client } = await world.running.another({ LITELLM_MERCHANT: merchant });
    world.litellm.rows = [1, 2, 3].map((n) => world.row(by === 'call' ? `call-${n}` : `answer-${n}`));
    const pull = () => client.litellm.pull.mutate({ startDate: world.day, endDate: world.day });
    const payloads = world.litellm.rows.map((each, index) =>
      payloadOf(each, { id: `answer-${index + 1}`, litellm_call_id: `call-${index + 1}` }),
    );
    expect((await world.push(payloads.slice(0, 2), { app })).json()).toMatchObject({ accepted: 2 });
    expect(await pull()).toMatchObject({ accepted: 1, duplicates: 2, rejected: 0 });
    expect((await world.push(payloads, { app })).json()).toMatchObject({ accepted: 0, duplicates: 3, rejected: [] });
    expect(await promptsOf(merchant)).toEqual(['3', '60']);
  });

  test('counts each of several calls to which the client gave the same call id', async () => {
    const { app, client } = await world.running.another({ LITELLM_MERCHANT: 'chosen-ids' });
    const calls = [10, 77].map((prompt_tokens, index) => {
      const row = world.row('chosen', { prompt_tokens, startTime: `${world.day}T10:00:0${5 * index}Z` });
      return payloadOf(row, { id: `answer-${prompt_tokens}`, litellm_call_id: 'chosen' });
    });
    expect((await world.push(calls, { app })).json()).toMatchObject({ accepted: 2, duplicates: 0, rejected: [] });
    expect(await promptsOf('chosen-ids')).toEqual(['2', '87']);
    // LiteLLM's log keeps only the first, as its ids are unique.
    world.litellm.rows = [world.row('chosen', { prompt_tokens: 10, startTime: `${world.day}T10:00:00Z` })];
    expect(await client.litellm.pull.mutate({ startDate: world.day })).toMatchObject({ accepted: 0, duplicates: 1 });
    expect(await promptsOf('chosen-ids')).toEqual(['2', '87']);
  });

  test('counts calls whose id is text for a missing value by their call id, and rejects those with neither', async () => {
    const { app, client } = await world.running.another({ LITELLM_MERCHANT: 'no-ids' });
    const noneOf = (call: unknown, prompt_tokens: number) =>
      payloadOf(world.row('None', { prompt_tokens }), { litellm_call_id: call });
    const body = [noneOf('one', 5), noneOf('two', 12), noneOf('null', 100), noneOf(null, 100)];
    expect((await world.push(body, { app })).json()).toMatchObject({
      accepted: 2,
      duplicates: 0,
      rejected: [
        { index: 2, code: 'INVALID_ENTRY', message: 'It has no id.' },
        { index: 3, code: 'INVALID_ENTRY', message: 'It has no id.' },
      ],
    });
    world.litellm.rows = [world.row('None'), world.row('None', { startTime: `${world.day}T11:00:00Z` })];
    expect(await client.litellm.pull.mutate({ startDate: world.day, endDate: world.day })).toMatchObject({
      calls: 2,
      accepted: 0,
      rejected: 2,
      rejections: [{ message: 'It has no id.' }, { message: 'It has no id.' }],
    });
    expect(await promptsOf('no-ids')).toEqual(['2', '17']);
  });

  test('rejects with ID_CONFLICT what another report of the same call says otherwise, and counts it as such', async () => {
    const { app, client } = await world.running.another({ LITELLM_MERCHANT: 'in-conflict' });
    const payload = payloadOf(world.row('same', { prompt_tokens: 10 }));
    expect((await world.push([payload], { app })).json()).toMatchObject({ accepted: 1 });
    world.litellm.rows = [world.row('same', { prompt_tokens: 77 })];
    const conflict = {
      id: 'same',
      code: 'ID_CONFLICT',
      message: 'The call is counted already, and differs: 77 prompt tokens where 10 were reported first.',
    };
    const pulled = await client.litellm.pull.mutate({ startDate: world.day, endDate: world.day });
    expect(pulled).toMatchObject({ accepted: 0, duplicates: 0, rejected: 1, rejections: [conflict] });
    const pushed = await world.push([payload, { ...payload, prompt_tokens: 77 }], { app });
    expect(pushed.json()).toEqual({ accepted: 0, duplicates: 1, empty: 0, rejected: [{ ...conflict, index: 1 }] });
    expect(await promptsOf('in-conflict')).toEqual(['1', '10']);
    const metrics = await (await app.request('/metrics')).text();
    expect(metrics).toContain('tally_source_events_total{source="litellm.pull",result="rejected"} 1');
    expect(metrics).toContain('tally_source_events_total{source="litellm.logs",result="rejected"} 1');
  });

  test('gives the plain sum for any order and any repeats', async () => {
    const started = addDays(dayOf(Date.now()), -4);
    const last = addDays(started, 1);
    let run = 0;
    let ended = async () => {};
    const calls = fc.uniqueArray(
      fc.record({
        id: fc.nat(1_000),
        // Two days, often around the midnight between them.
        second: fc.oneof(fc.integer({ min: 0, max: 172_799 }), fc.integer({ min: 86_390, max: 86_410 })),
        ms: fc.nat(999),
        prompt: fc.nat(5_000),
        completion: fc.nat(5_000),
        spend: fc.double({ min: 0, max: 2, noNaN: true }),
        failed: fc.boolean(),
        hit: fc.boolean(),
        /** One of few: clients choose it, and may choose the same again. */
        chosen: fc.nat(3),
      }),
      { selector: ({ id }) => id, minLength: 1, maxLength: 8 },
    );
    const steps = fc.array(
      fc.record({ way: fc.constantFrom('pull', 'generic', 'openmeter'), which: fc.array(fc.nat(7), { maxLength: 8 }) }),
      { minLength: 1, maxLength: 6 },
    );
    await fc.assert(
      fc
        .asyncProperty(calls, steps, async (chosen, plan) => {
          const merchant = `interleaved-${run++}`;
          const { client, app, end } = await world.running.another({
            LITELLM_MERCHANT: merchant,
            LITELLM_DAILY: 'off',
          });
          ended = end;
          const reported = chosen.map(({ id, second, ms, prompt, completion, spend, failed, hit }) =>
            world.row(`${id}${hit ? '_cache_hit1763781050.5' : ''}`, {
              startTime: new Date(Date.parse(`${started}T00:00:00Z`) + second * 1000 + ms).toISOString(),
              spend: String(spend),
              prompt_tokens: prompt,
              completion_tokens: completion,
              total_tokens: prompt + completion,
              cache_hit: hit ? 'True' : 'False',
              status: failed ? 'failure' : 'success',
            }),
          );
          const callIds = new Map(reported.map((each, index) => [each.startTime, `chosen-${chosen[index]!.chosen}`]));
          world.litellm.rows = reported;
          const send = (path: string, body: object) =>
            app.request(path, {
              method: 'POST',
              headers: { authorization: `Bearer ${KEY}` },
              body: JSON.stringify(body),
            });
          for (const { way, which } of plan) {
            const some = which.flatMap((index) => reported[index % reported.length] ?? []);
            if (way === 'pull') await client.litellm.pull.mutate({ startDate: started, endDate: last });
            else if (way === 'generic') {
              const again = some.map((each) => ({
                ...each,
                request_id: each.request_id.replace(/_cache_hit.*/, `_cache_hit${Date.now() / 1000}`),
              }));
              const response = await send(
                LOGS,
                again.map((each) => payloadOf(each, { litellm_call_id: callIds.get(each.startTime) })),
              );
              expect(await response.json()).toMatchObject({ rejected: [] });
            } else
              for (const each of some.filter(
                ({ status, cache_hit }) => status === 'success' && cache_hit === 'False',
              )) {
                const late = new Date(Date.parse(each.startTime) + 1_500).toISOString();
                const data = {
                  cost: Number(each.spend),
                  prompt_tokens: each.prompt_tokens,
                  completion_tokens: each.completion_tokens,
                };
                expect((await send(EVENTS, eventOf(each.request_id, late, data))).status).toBe(204);
              }
          }
          await client.litellm.pull.mutate({ startDate: started, endDate: last });
          // An event that came first has its time of sending.
          const counted = await world.running.counted(started, addDays(last, 1), merchant);
          const sum = (of: (each: (typeof chosen)[number]) => bigint) =>
            chosen.reduce((total, each) => total + of(each), 0n);
          expect({
            requests: counted.requests,
            failed: counted.failedRequests,
            prompt: counted.promptTokens,
            completion: counted.completionTokens,
            nanos: nanosOf(counted.cost),
          }).toEqual({
            requests: String(chosen.length),
            failed: String(chosen.filter(({ failed }) => failed).length),
            prompt: String(sum(({ prompt }) => BigInt(prompt))),
            completion: String(sum(({ completion }) => BigInt(completion))),
            nanos: sum(({ spend }) => roundedNanos(String(spend))),
          });
        })
        .afterEach(() => ended()),
      { numRuns: runsOf({ short: 8, long: 25 }) },
    );
  });
});

const nanosOf = (usd: string) => {
  const [whole = '0', fraction = ''] = usd.split('.');
  return BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'));
};

/** Half up, by the digits of the shortest decimal: written differently from the code under test. */
function roundedNanos(text: string): bigint {
  const [mantissa = '0', exponent = '0'] = text.split('e');
  const [whole = '0', fraction = ''] = mantissa.split('.');
  let numerator = BigInt(whole + fraction) * 10n ** 9n;
  let denominator = 10n ** BigInt(fraction.length);
  if (Number(exponent) < 0) denominator *= 10n ** BigInt(-Number(exponent));
  else numerator *= 10n ** BigInt(Number(exponent));
  return (numerator * 2n + denominator) / (denominator * 2n);
}
