import { createSocket, type Socket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
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

/** Resolves a name; the system answers with the name and nothing else. */
const resolved = (hostname: string) =>
  new Promise((resolve) => {
    const system = createResolve((name, _, callback) => callback(null, [{ address: name, family: 4 }]), resolver);
    system(hostname, { all: true }, (error, addresses) => resolve(error ? error.code : addresses[0]!.address));
  });

test.each(['known.example', 'unknown.example', '127.0.0.1', '::1'])('%s is resolved by the system', async (name) => {
  expect(await resolved(name)).toBe(name);
});

test.each(['silent.example', 'half.example'])('the system is not asked for %s, which gets no answer', async (name) => {
  expect(await resolved(name)).toBe('ETIMEOUT');
});
