import { ingest as contract, ERRORS, isProcedure, type Procedure, UsageEntry } from '@tally/contracts';
import { hostileInputs } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { ADMIN_KEY, type Fixture, startIngest } from './ingest-fixture.ts';

let ingest: Fixture;

beforeAll(async () => {
  ingest = await startIngest();
});
afterAll(() => ingest.close());

async function call(path: string, kind: Procedure['kind'], input: unknown) {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' };
  const body = JSON.stringify(input) ?? '';
  const response = await (kind === 'query' && body.length < 10_000
    ? ingest.app.request(`/trpc/${path}?input=${encodeURIComponent(body)}`, { headers })
    : ingest.app.request(`/trpc/${path}`, {
        method: 'POST',
        headers: { ...headers, ...(kind === 'query' && { 'x-http-method': 'GET' }) },
        body,
      }));
  const answer = (await response.json()) as {
    result?: { data: { rejected?: { code: string }[] } };
    error?: { data?: { code?: string } };
  };
  return { status: response.status, answer };
}

function procedures(node: object, before = ''): [path: string, procedure: Procedure][] {
  return Object.entries(node).flatMap(([name, each]: [string, Procedure | object]) =>
    isProcedure(each as Procedure) ? [[`${before}${name}`, each as Procedure]] : procedures(each, `${before}${name}.`),
  );
}

/** Entries are checked one by one, so the batch's own schema does not show what is in them. */
const BATCH = z.strictObject({ entries: z.array(UsageEntry), backfill: z.boolean() });

test.each(procedures(contract))(
  '%s answers or refuses whatever it is sent, with a code of ours',
  async (path, { kind, input }) => {
    for (const sent of hostileInputs(path === 'usage.record' ? BATCH : input)) {
      const { status, answer } = await call(path, kind, sent);
      const shown = `${path} ${JSON.stringify(sent)?.slice(0, 300)} ${JSON.stringify(answer).slice(0, 500)}`;
      expect(status < 500 || status === 503, shown).toBe(true);
      if (status >= 400) expect(Object.keys(ERRORS), shown).toContain(answer.error?.data?.code);
      for (const { code } of answer.result?.data.rejected ?? []) expect(Object.keys(ERRORS), shown).toContain(code);
    }
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
