import { DAY_MS, dayOf, MINUTE_MS, UsageEntry } from '@tally/contracts';
import type { LitellmCall } from '@tally/db';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Call, fromEvent, fromPayload, fromSpendLog, type Rules } from './call.ts';
import { claim } from './identity.ts';

const rules: Rules = { merchantFrom: 'fixed', merchant: 'm', eventType: 'litellm_tokens' };
const NOON = Date.parse('2026-11-22T12:00:00Z');

type Made = { response: string; call: string; at: number; prompt: number; failed?: boolean };

const row = ({ at, prompt, failed = false }: Made, request_id: string, more: object = {}): Call =>
  fromSpendLog(
    {
      request_id,
      startTime: new Date(at).toISOString(),
      prompt_tokens: String(prompt),
      completion_tokens: '1',
      status: failed ? 'failure' : 'success',
      ...more,
    },
    rules,
  );
const payload = ({ response, call, at, prompt, failed = false }: Made, more: object = {}): Call =>
  fromPayload(
    {
      id: response,
      litellm_call_id: call,
      startTime: String(at / 1000 + 0.0004),
      prompt_tokens: String(prompt),
      completion_tokens: '1',
      status: failed ? 'failure' : 'success',
      ...more,
    },
    rules,
  );
const event = ({ response, at, prompt }: Made, sentAt = at + 5_000): Call =>
  fromEvent(
    {
      specversion: '1.0',
      id: response,
      source: 'litellm-proxy',
      type: 'litellm_tokens',
      subject: 'ada',
      time: new Date(sentAt).toISOString(),
      data: { prompt_tokens: String(prompt), completion_tokens: '1' },
    },
    rules,
    sentAt,
  );

/** What the table keeps between batches. */
function memory(...before: LitellmCall[]) {
  const table = new Map(before.map((row) => [`${row.alias} ${dayOf(row.time)} ${row.entryId}`, row]));
  return (...calls: Call[]) => {
    const aliases = new Set(calls.flatMap(({ ids }) => ids.all));
    const { claims, notes } = claim(
      calls,
      [...table.values()].filter(({ alias }) => aliases.has(alias)).map((each) => ({ ...each })),
    );
    const stored = notes.map((note) => `${note.alias} ${dayOf(note.time)} ${note.entryId}`);
    expect(new Set(stored).size).toBe(stored.length);
    for (const [at, note] of notes.entries()) table.set(stored[at]!, note);
    return claims.map((each) => ({ ...each, entry: `${dayOf(each.at)} ${each.entryId}` }));
  };
}

const one: Made = { response: 'chatcmpl-1', call: 'call-1', at: NOON, prompt: 10 };

describe('reports of one call', () => {
  test.each<[string, Call[]]>([
    ['row by response id, payload', [row(one, 'chatcmpl-1'), payload(one)]],
    ['row by call id, payload', [row(one, 'call-1'), payload(one)]],
    [
      'row by call id with the response in it, event',
      [row(one, 'call-1', { response: { id: 'chatcmpl-1' } }), event(one)],
    ],
    ['payload, event', [payload(one), event(one)]],
    ['row by response id, event', [row(one, 'chatcmpl-1'), event(one)]],
    ['event, payload, row by call id', [event(one), payload(one), row(one, 'call-1')]],
    ['payload without a response id, row', [payload(one, { id: 'None' }), row(one, 'call-1')]],
    [
      'row with the call id in its metadata, payload',
      [row(one, 'x', { metadata: { litellm_call_id: 'call-1' } }), payload(one)],
    ],
  ])('are one entry in either order: %s', (_, calls) => {
    for (const reports of [calls, [...calls].reverse()]) {
      const report = memory();
      const entries = reports.map((call) => report(call)[0]!);
      expect(new Set(entries.map(({ entry }) => entry)).size).toBe(1);
      expect(entries.map(({ isRepeat }) => isRepeat)).toEqual(entries.map((_, at) => at > 0));
      expect(new Set(memory()(...reports).map(({ entry }) => entry)).size).toBe(1);
    }
  });

  test('are in conflict where they report other amounts, and not where one leaves them out', () => {
    const report = memory();
    report(payload(one, { response_cost: '0.5' }));
    expect(report(row(one, 'chatcmpl-1', { spend: '0.5' }))[0]!.conflict).toBeUndefined();
    expect(report(row(one, 'call-1', { spend: null, prompt_tokens: null }))[0]!.conflict).toBeUndefined();
    expect(report(row({ ...one, prompt: 77 }, 'call-1'))[0]!.conflict).toBe(
      'The call is counted already, and differs: 77 prompt tokens where 10 were reported first.',
    );
    expect(report(row(one, 'chatcmpl-1', { spend: '0.6' }))[0]!.conflict).toMatch(/600000000 nano-USD where 500000000/);
  });
});

describe('different calls under one id that the client chose', () => {
  const chosen = { ...one, call: 'mine' };

  test('are counted each where their responses differ', () => {
    const report = memory();
    const claims = report(payload(chosen), payload({ ...chosen, response: 'chatcmpl-2' }));
    expect(claims.map(({ entryId }) => entryId)).toEqual(['chatcmpl-1', 'chatcmpl-2']);
  });

  test('are counted each where a row names no response, and starts or outcomes differ', () => {
    const report = memory();
    report(payload(chosen));
    const later = row({ ...chosen, at: NOON + 2_000 }, 'mine');
    expect(report(later)[0]).toMatchObject({ entryId: 'mine', isRepeat: false });
    expect(report(later)[0]).toMatchObject({ entryId: 'mine', isRepeat: true });
    const failed = row({ ...chosen, failed: true }, 'mine');
    expect(report(failed)[0]).toMatchObject({ entryId: `mine@${NOON}`, isRepeat: false });
    expect(report(failed)[0]).toMatchObject({ entryId: `mine@${NOON}`, isRepeat: true });
    expect(report(row(chosen, 'mine'))[0]).toMatchObject({ entryId: 'chatcmpl-1', isRepeat: true });
  });

  test('are counted each where a later report tells the response of the first', () => {
    const report = memory();
    report(row(chosen, 'mine'));
    expect(report(payload(chosen))[0]).toMatchObject({ entryId: 'mine', isRepeat: true });
    const other = { ...chosen, response: 'chatcmpl-2' };
    expect(report(payload(other))[0]).toMatchObject({ entryId: 'chatcmpl-2', isRepeat: false });
  });

  test('are those of different days, also where a response id is used again', () => {
    const report = memory();
    report(payload(one));
    const nextDay = { ...one, at: NOON + DAY_MS };
    expect(report(payload(nextDay))[0]).toMatchObject({ entryId: 'chatcmpl-1', at: nextDay.at, isRepeat: false });
    expect(report(row(nextDay, 'chatcmpl-1'))[0]).toMatchObject({ at: nextDay.at, isRepeat: true });
    expect(report(row(one, 'chatcmpl-1'))[0]).toMatchObject({ at: NOON, isRepeat: true });
  });

  test('are attempts that failed, which have no response, and the one that succeeded', () => {
    const report = memory();
    const attempt = { ...one, response: 'call-1', failed: true };
    const claims = report(
      payload(attempt),
      payload({ ...attempt, at: NOON + 3_000 }),
      payload({ ...one, at: NOON + 6_000 }),
    );
    expect(new Set(claims.map(({ entry }) => entry)).size).toBe(3);
  });
});

describe('what was counted before the table existed', () => {
  const counted = (alias: string, more: Partial<LitellmCall> = {}): LitellmCall => ({
    merchantId: 'm',
    alias,
    entryId: alias,
    time: NOON,
    isSentTime: false,
    responseId: null,
    failed: false,
    promptTokens: 10n,
    completionTokens: 1n,
    cost: null,
    ...more,
  });
  const hit = { cache_hit: 'True' };

  test.each<[string, LitellmCall, Call[]]>([
    ['under the response id', counted('chatcmpl-1'), [payload(one), row(one, 'chatcmpl-1'), event(one)]],
    ['under the call id', counted('call-1'), [row(one, 'call-1'), payload(one)]],
    [
      'under the response id of an event',
      counted('chatcmpl-1', { isSentTime: true, time: NOON + MINUTE_MS }),
      [payload(one)],
    ],
    [
      'around a midnight',
      counted('chatcmpl-1', { isSentTime: true, failed: null, promptTokens: null, completionTokens: null }),
      [payload(one), row(one, 'chatcmpl-1')],
    ],
    [
      'as a cache hit under the call id',
      counted(`call-1_cache_hit@${NOON}`, { entryId: 'call-1' }),
      [row(one, 'call-1_cache_hit1763781050.1', hit), payload({ ...one, response: 'r_cache_hit1763781050.9' }, hit)],
    ],
  ])('stays a repeat: %s', (_, before, calls) => {
    for (const call of calls) {
      expect(memory(before)(call)).toMatchObject([{ entryId: before.entryId, at: before.time, isRepeat: true }]);
      expect(memory(before)(call)[0]!.conflict).toBeUndefined();
    }
  });
});

test.each(['None', 'null', 'undefined', '', '  ', 'nan', 'NaN', '[object Object]'])('takes %j for no id', (id) => {
  expect(payload(one, { id }).entry.id).toBe('call-1');
  expect(payload(one, { litellm_call_id: id }).ids.all).toEqual(['chatcmpl-1']);
  expect(() => payload(one, { id, litellm_call_id: id })).toThrow('It has no id.');
  expect(() => row(one, id)).toThrow('It has no id.');
  expect(() => event({ ...one, response: id })).toThrow(/id/);
  const { entry } = row(one, 'r', { user: id, api_key: id, team_id: id, model: id, end_user: id });
  expect([entry.userId, entry.apiKey, entry.model, Object.keys(entry.properties!)]).toEqual([
    undefined,
    undefined,
    undefined,
    ['source'],
  ]);
});

test('counts each call once in any order of reports, with ids of calls that clients choose', () => {
  const calls = fc
    .array(fc.record({ call: fc.nat(2), gap: fc.integer({ min: 2, max: 600 }), prompt: fc.nat(3) }), {
      minLength: 1,
      maxLength: 8,
    })
    .map((chosen) => {
      // Around a midnight, at least two seconds apart.
      let at = Date.parse('2026-11-22T23:50:00Z');
      return chosen.map(({ call, gap, prompt }, index): Made => {
        at += gap * 1_000;
        return { response: `r${index}`, call: `c${call}`, at, prompt };
      });
    });
  const reports = fc.array(fc.tuple(fc.nat(7), fc.nat(2), fc.boolean()), { maxLength: 30 });
  fc.assert(
    fc.property(calls, fc.boolean(), reports, (made, rowsByCall, plan) => {
      const report = memory();
      const entries = new Map<Made, string>();
      for (let at = 0; at < plan.length; ) {
        // A batch: up to the next report marked as the last of its batch.
        const last = plan.findIndex(([, , isLast], index) => index >= at && isLast);
        const batch = plan.slice(at, last < 0 ? plan.length : last + 1).map(([which, way]) => {
          const call = made[which % made.length]!;
          // `request_id` is unique: for calls that share an id, LiteLLM keeps one row.
          const hasRow = !rowsByCall || made.find((each) => each.call === call.call) === call;
          if (way === 1 && hasRow) return [call, row(call, rowsByCall ? call.call : call.response)] as const;
          // An event names only the response, so it does not connect to rows that name only the call.
          if (way === 2 && !rowsByCall) return [call, event(call, call.at + 90 * MINUTE_MS)] as const;
          return [call, payload(call)] as const;
        });
        at += batch.length;
        for (const [index, { entry, conflict }] of report(...batch.map(([, call]) => call)).entries()) {
          const [call] = batch[index]!;
          expect(conflict).toBeUndefined();
          if (entries.has(call)) expect(entry).toBe(entries.get(call));
          entries.set(call, entry);
        }
      }
      expect(new Set(entries.values()).size).toBe(entries.size);
    }),
    { numRuns: 500 },
  );
});

test('cleans dimensions that an entry may not have, so that the call is counted', () => {
  const made = { response: 'chatcmpl-1', call: 'call-1', at: NOON, prompt: 10 };
  const dimensionsOf = (more: object): unknown => {
    const { entry } = row(made, 'chatcmpl-1', more);
    expect(UsageEntry.safeParse(entry).error).toBeUndefined();
    return { userId: entry.userId, apiKey: entry.apiKey, model: entry.model, provider: entry.provider };
  };
  const sent = {
    user: 'a\u200bda',
    api_key: '\ufeffk1',
    model: 'gpt\u0000-4o\u2028',
    custom_llm_provider: 'open\u00adai',
  };
  expect(dimensionsOf(sent)).toEqual({ userId: 'ada', apiKey: 'k1', model: 'gpt-4o', provider: 'openai' });
  expect(dimensionsOf({ user: '\u200b', api_key: '(other)', model: 'e\u0301' })).toEqual({ model: '\u00e9' });
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 400 }), (user) => {
      dimensionsOf({ user, model: user, api_key: user, custom_llm_provider: user });
    }),
    { numRuns: 300 },
  );
});
