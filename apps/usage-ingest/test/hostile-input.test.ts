import { ingest as contract, ERRORS, proceduresOf, UsageEntry } from '@tally/contracts';
import { callOf, type HostileRequest, hostileInputs, hostileRequests } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest();
});
afterAll(() => ingest.close());

async function expectAnswer({ sent, path, init }: HostileRequest) {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json', ...init.headers };
  const response = await ingest.app.request(path, { ...init, headers });
  const answer = (await response.json()) as {
    result?: { data: { rejected?: { code: string }[] } };
    error?: { data?: { code?: string } };
  };
  const { status } = response;
  const shown = `${path.slice(0, 80)} ${JSON.stringify(sent)?.slice(0, 300)} ${JSON.stringify(answer).slice(0, 500)}`;
  expect(status < 500 || status === 503, shown).toBe(true);
  if (status >= 400) expect(Object.keys(ERRORS), shown).toContain(answer.error?.data?.code);
  for (const { code } of answer.result?.data.rejected ?? []) expect(Object.keys(ERRORS), shown).toContain(code);
}

/** Entries are checked one by one, so the schemas of these inputs do not describe them. */
const WITH_ENTRIES: Record<string, z.ZodType> = {
  'usage.record': z.strictObject({ entries: z.array(UsageEntry), backfill: z.boolean() }),
  'budgets.settleMany': z.strictObject({ settlements: z.array(contract.budgets.settle.input) }),
};

test.each(proceduresOf(contract))(
  '%s answers or refuses whatever it is sent, with a code of ours',
  async (name, { kind, input, rest = [] }) => {
    const schema = WITH_ENTRIES[name] ?? input;
    for (const sent of hostileInputs(schema)) await expectAnswer(callOf(name, kind, sent));
    for (const each of rest) for (const request of hostileRequests(each, schema)) await expectAnswer(request);
  },
);

test('a merchant is answered whatever is stored of it, also days that no input may name', async () => {
  const merchantId = 'ancient';
  const time = Date.parse('0999-12-31T10:00:00Z');
  const line = { merchant_id: merchantId, date: '0999-12-31', id: 'old', time, requests: '1', user_id: 'a\u200b' };
  await ingest.db.journal.append({ source: 'direct', lines: [{ ...line, origin: 'direct' }] });
  expect((await ingest.admin.usage.recent.query({ merchantId })).rows).toMatchObject([
    { id: 'old', date: '0999-12-31', time: '0999-12-31T10:00:00.000Z', userId: 'a\u200b' },
  ]);
});
