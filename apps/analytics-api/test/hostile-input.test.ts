import { analytics as contract, ERRORS, Filters, GroupBy, isProcedure, type Procedure } from '@tally/contracts';
import { hostileInputs } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { KEY, type Running, startAnalytics } from './start.ts';

let running: Running;

beforeAll(async () => {
  running = await startAnalytics({ ADMIN_EXPORT_RATE_LIMIT: '1000000' });
});
afterAll(() => running.stop());

const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };

function procedures(node: object, before = ''): [path: string, procedure: Procedure][] {
  return Object.entries(node).flatMap(([name, each]: [string, Procedure | object]) =>
    isProcedure(each as Procedure) ? [[`${before}${name}`, each as Procedure]] : procedures(each, `${before}${name}.`),
  );
}

/** Sends everything, a few at once: many answers wait for the stores. */
async function sendAll(inputs: Generator, send: (sent: unknown) => Promise<Response> | Response) {
  const sender = async () => {
    for (const sent of inputs) await expectAnswer(await send(sent), sent);
  };
  await Promise.all(Array.from({ length: 8 }, sender));
}

async function expectAnswer(response: Response, sent: unknown) {
  const text = await response.text();
  const shown = `${JSON.stringify(sent)?.slice(0, 300)} ${text.slice(0, 500)}`;
  expect(response.status < 500 || response.status === 503 || response.status === 502, shown).toBe(true);
  if (response.status < 400) return;
  const { error } = JSON.parse(text) as { error?: { data?: { code?: string } } };
  expect(Object.keys(ERRORS), shown).toContain(error?.data?.code);
}

test.each(procedures(contract))(
  '%s answers or refuses whatever it is sent, with a code of ours',
  (path, { kind, input }) =>
    sendAll(hostileInputs(input), (sent) => {
      const body = JSON.stringify(sent) ?? '';
      if (kind === 'query' && body.length < 10_000)
        return running.app.request(`/trpc/${path}?input=${encodeURIComponent(body)}`, { headers });
      const method: Record<string, string> = kind === 'query' ? { 'x-http-method': 'GET' } : {};
      return running.app.request(`/trpc/${path}`, { method: 'POST', headers: { ...headers, ...method }, body });
    }),
);

test.each(['analytics', 'by-user'])(
  'POST /api/v1/admin/usage/%s answers or refuses whatever it is sent, with a code of ours',
  (path) =>
    sendAll(hostileInputs(Filters), (sent) => {
      const body = JSON.stringify(sent) ?? '';
      return running.app.request(`/api/v1/admin/usage/${path}`, { method: 'POST', headers, body });
    }),
);

test('an export answers or refuses whatever it is asked, with a code of ours', async () => {
  await sendAll(hostileInputs(Filters.extend({ by: GroupBy })), (sent) => {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(sent ?? {})) {
      for (const each of Array.isArray(value) ? value : [value]) query.append(name, String(each).slice(0, 1_000));
    }
    // Node refuses longer lines by itself.
    return running.app.request(`/export/usage.csv?${`${query}`.slice(0, 10_000)}`, { headers });
  });
});
