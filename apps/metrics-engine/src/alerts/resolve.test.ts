import { createSocket, type Socket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
import { until } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createResolve } from './resolve.ts';

let server: Socket;
let resolver: Resolver;

/** A name server that knows `known.example`, refuses `unknown.example`, and never answers about others. */
beforeAll(async () => {
  server = createSocket('udp4');
  server.on('message', (message, { port, address }) => {
    const name = message.subarray(12).toString('latin1');
    if (name.includes('silent')) return;
    if (name.includes('half') && message.at(-3) === AAAA) return;
    const answer = Buffer.from(message);
    answer.writeUInt16BE(name.includes('unknown') ? NO_SUCH_NAME : NO_ADDRESS, 2);
    server.send(answer, port, address);
  });
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  resolver = new Resolver({ timeout: 200, tries: 1 });
  resolver.setServers([`127.0.0.1:${server.address().port}`]);
});
afterAll(() => void server.close());

/** The type of a question for addresses of version 6. */
const AAAA = 28;
/** Flags of answers. */
const NO_ADDRESS = 0x8180;
const NO_SUCH_NAME = 0x8183;

/** Returns what resolves names, and the names that the system was asked for. It answers with the name at `answer`. */
function setUp() {
  const waiting = new Map<string, () => void>();
  const answersAtOnce = { is: true };
  const system = createResolve((name, _, callback) => {
    const answer = () => callback(null, [{ address: name, family: 4 }]);
    if (answersAtOnce.is) answer();
    else waiting.set(name, answer);
  }, resolver);
  const resolved = (hostname: string) =>
    new Promise((resolve) => {
      system(hostname, { all: true }, (error, addresses) => resolve(error ? error.code : addresses[0]!.address));
    });
  return { resolved, waiting, answersAtOnce };
}

test.each(['known.example', 'unknown.example', '127.0.0.1', '::1', 'silent.example', 'half.example'])(
  '%s is resolved by the system',
  async (name) => {
    expect(await setUp().resolved(name)).toBe(name);
  },
);

test('while the system looks for a name without an answer, it is asked for others only if they have one', async () => {
  const { resolved, waiting, answersAtOnce } = setUp();
  answersAtOnce.is = false;
  const first = resolved('silent.example');
  await until('the system to be asked', () => waiting.has('silent.example'));
  answersAtOnce.is = true;
  expect(await resolved('known.example')).toBe('known.example');
  expect(await resolved('half.example')).toBe('ETIMEOUT');
  waiting.get('silent.example')!();
  expect(await first).toBe('silent.example');
  expect(await resolved('half.example')).toBe('half.example');
});
