import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { createBodies } from './bodies.ts';

const KIB = 1024;

test('hands over large bodies one in each turn of the event loop, and small ones at once', async () => {
  const bodies = createBodies({ total: 1024 * KIB, perCaller: 1024 * KIB, progressMs: 60_000 });
  let turn = 0;
  let counting = true;
  const count = () => {
    turn++;
    if (counting) setImmediate(count);
  };
  setImmediate(count);
  const turnsOf = async (bytes: number) => {
    const requests = Array.from({ length: 5 }, () =>
      Object.assign(new PassThrough(), { headers: { 'content-length': String(bytes) }, complete: true }),
    );
    const turns = requests.map(async (request) => {
      const options = { limit: 1024 * KIB, callerId: 'ada', json: { maxItems: 10, maxDepth: 10 } };
      const body = await bodies.read(request as unknown as IncomingMessage, options);
      body.release();
      return turn;
    });
    for (const request of requests) request.end(Buffer.alloc(bytes, 0x20));
    return new Set(await Promise.all(turns)).size;
  };
  expect(await turnsOf(64 * KIB)).toBe(5);
  expect(await turnsOf(KIB)).toBeLessThan(5);
  counting = false;
  expect(bodies.held()).toBe(0);
});
