import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { freshDatabase } from '@tally/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openDb } from './open-db.ts';
import { migrate } from './schema.ts';

let database: Awaited<ReturnType<typeof freshDatabase>>;
beforeAll(async () => {
  database = await freshDatabase(migrate);
});
afterAll(() => database.drop());

const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);

/** What a backend says when its server was killed: FATAL 57P01. */
function goodbye(): Buffer {
  const text = 'terminating connection due to unexpected postmaster exit';
  const fields = Buffer.from(`SFATAL\0VFATAL\0C57P01\0M${text}\0\0`);
  const head = Buffer.alloc(5, 'E');
  head.writeUInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}

/** A server that can be killed: then it says so in the packet in which it would first be ready. */
async function startMortal(): Promise<{ url: string; kill(): void; revive(): void; close(): void }> {
  const target = new URL(database.url);
  const sockets = new Set<Socket>();
  let isKilled = false;
  const server = createServer((client) => {
    const store = connect(Number(target.port), target.hostname);
    client.pipe(store);
    store.on('data', (bytes) => {
      if (isKilled && bytes.subarray(-READY.length).equals(READY)) client.end(Buffer.concat([bytes, goodbye()]));
      else client.write(bytes);
    });
    for (const [one, other] of [[client, store] as const, [store, client] as const]) {
      sockets.add(one);
      one.on('error', () => {}).on('close', () => other.destroy());
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(database.url);
  url.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const closeAll = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: url.toString(),
    kill() {
      isKilled = true;
      closeAll();
    },
    revive() {
      isKilled = false;
    },
    close() {
      closeAll();
      server.close();
    },
  };
}

test('a Postgres that ends a connection in the moment that it is ready fails statements, and nothing else', async () => {
  const postgres = await startMortal();
  const db = await openDb(postgres.url, { poolSize: 2 });
  await db.look();
  postgres.kill();
  // An error that nobody listens to would end the process, here the test.
  for (let attempt = 0; attempt < 4; attempt++) await expect(db.look()).rejects.toThrow();
  postgres.revive();
  await expect(db.look()).resolves.toMatchObject({ readOnly: false });
  await db.close();
  postgres.close();
});
