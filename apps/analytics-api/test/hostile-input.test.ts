import { analytics as contract, ERRORS, type Procedure, proceduresOf, SERVICES } from '@tally/contracts';
import { callOf, type HostileRequest, hostileInputs, hostileRequests } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { KEY, type Running, startAnalytics } from './start.ts';

let running: Running;

beforeAll(async () => {
  running = await startAnalytics({ ADMIN_EXPORT_RATE_LIMIT: '1000000' });
});
afterAll(() => running.stop());

const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };

/** Sends all requests, a few at once: many answers wait for the stores. */
async function sendAll(requests: Generator<HostileRequest>) {
  const sender = async () => {
    for (const request of requests) await expectAnswer(request);
  };
  await Promise.all(Array.from({ length: 8 }, sender));
}

async function expectAnswer({ sent, path, init }: HostileRequest) {
  const response = await running.app.request(path, { ...init, headers: { ...headers, ...init.headers } });
  const text = await response.text();
  const shown = `${path.slice(0, 80)} ${JSON.stringify(sent)?.slice(0, 300)} ${text.slice(0, 500)}`;
  expect(response.status < 500 || response.status === 503, shown).toBe(true);
  if (response.status < 400) return;
  const { error } = JSON.parse(text) as { error?: { data?: { code?: string } } };
  expect(Object.keys(ERRORS), shown).toContain(error?.data?.code);
}

function* calls(name: string, { kind, input }: Procedure): Generator<HostileRequest> {
  for (const sent of hostileInputs(input)) yield callOf(name, kind, sent);
}

test.each(proceduresOf(contract))('%s answers or refuses whatever it is sent, with a code of ours', (name, procedure) =>
  sendAll(calls(name, procedure)),
);

const paths = proceduresOf(contract).flatMap(([, { rest = [], input }]) => rest.map((each) => ({ ...each, input })));
/** Each in its first format: the query is the same in all of them. */
const files = SERVICES['analytics-api'].endpoints.map(({ path, parameters = {}, query = z.strictObject({}) }) => ({
  method: 'GET' as const,
  path: path.replace(/{(\w+)}/, (_, name: string) => [parameters[name]!].flat()[0]!),
  input: query,
}));

test.each([...paths, ...files])(
  '$method $path answers or refuses whatever it is sent, with a code of ours',
  ({ input, ...rest }) => sendAll(hostileRequests(rest, input)),
);
