import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { freshDatabase } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openDb } from './open-db.ts';
import { migrate } from './schema.ts';

const OWN = ['options', 'statement_timeout'];

let database: Awaited<ReturnType<typeof freshDatabase>>;
const undo: (() => Promise<unknown>)[] = [];
beforeAll(async () => {
  database = await freshDatabase();
});
afterAll(async () => {
  for (const step of undo) await step();
  await database.drop();
});

/** The start-up of a pooler: it refuses the parameters of a session, or ignores them if it is told to. */
async function startPooler(does: 'refuse' | 'ignore'): Promise<string> {
  const target = new URL(database.url);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    sockets.add(client);
    client.on('error', () => {});
    client.once('data', (startup: Buffer) => {
      const parameters = startup.subarray(8).toString().split('\0').slice(0, -2);
      const kept: string[] = [];
      for (let at = 0; at < parameters.length; at += 2) {
        const [name, value] = parameters.slice(at, at + 2) as [string, string];
        if (!OWN.includes(name)) kept.push(name, value);
        else if (does === 'refuse') return client.end(errorResponse(`unsupported startup parameter: ${name}`));
      }
      const upstream = connect(Number(target.port), target.hostname);
      sockets.add(upstream);
      upstream.on('error', () => client.destroy());
      const body = Buffer.from(`${kept.join('\0')}\0\0`);
      upstream.write(Buffer.concat([uint32(body.length + 8), startup.subarray(4, 8), body]));
      client.pipe(upstream).pipe(client);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  undo.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  });
  const url = new URL(database.url);
  url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return url.toString();
}

function errorResponse(message: string): Buffer {
  const body = Buffer.from(`SFATAL\0C08P01\0M${message}\0\0`);
  return Buffer.concat([Buffer.from('E'), uint32(body.length + 4), body]);
}

function uint32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32BE(value);
  return buffer;
}

test.each(['refuse', 'ignore'] as const)(
  'a pooler that would %s the settings of a session is refused at start',
  async (does) => {
    const url = await startPooler(does);
    const unavailable: unknown[] = [];
    const opening = openDb(url, { onUnavailable: (error) => unavailable.push(error) });
    await expect(opening).rejects.toThrow(/a pooler .* such as PgBouncer.* connect to Postgres directly/s);
    expect(unavailable).toEqual([]);
    await expect(openDb(url)).rejects.toThrow(/such as PgBouncer/);
    await expect(migrate(url)).rejects.toThrow(/such as PgBouncer/);
  },
);

test('Postgres itself is not taken for a pooler', async () => {
  const db = await openDb(database.url, { formulaPoolSize: 1, statementTimeoutMs: 1_234 });
  await db.close();
});
