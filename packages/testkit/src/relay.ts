import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export type Relay = {
  /** The port on 127.0.0.1 that leads to the target. */
  port: number;
  /**
   * Holds back the next message to the target that contains a text, and what follows it on its connection; `after`: so
   * many others that contain it pass first.
   */
  hold(text: string, options?: { after?: number }): Held;
  /**
   * Passes the next message to the target that contains a text, and breaks its connection when the answer comes: the
   * target has done what was asked, and the client does not know. Resolves once that has happened.
   */
  loseAnswer(text: string): Promise<void>;
  close(): void;
};

type Held = {
  /** Resolves once the message is held. */
  caught: Promise<void>;
  /** Sends what was held; nothing more is held. */
  release(): void;
};

/**
 * Starts a relay to a store, by which a test stops a client at a certain point of its work for as long as it wants.
 * Connections must not be encrypted.
 */
export async function startRelay(target: { host: string; port: number }): Promise<Relay> {
  let holding: { text: string; after: number; caught(): void; released: Promise<void> } | undefined;
  let losing: { text: string; lost(): void } | undefined;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const store = connect(target.port, target.host);
    let sent = Promise.resolve();
    let lost: (() => void) | undefined;
    client.on('data', (bytes) => {
      if (losing && bytes.includes(losing.text)) {
        ({ lost } = losing);
        losing = undefined;
      }
      if (holding && bytes.includes(holding.text) && holding.after-- === 0) {
        const { caught, released } = holding;
        holding = undefined;
        sent = sent.then(() => released);
        caught();
      }
      sent = sent.then(() => void store.write(bytes));
    });
    store.on('data', (bytes) => {
      if (!lost) return void client.write(bytes);
      client.destroy();
      lost();
    });
    for (const [one, other] of [[client, store] as const, [store, client] as const]) {
      sockets.add(one);
      one
        .on('error', () => {})
        .on('close', () => {
          sockets.delete(one);
          other.destroy();
        });
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    hold(text, { after = 0 } = {}) {
      let release = () => {};
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      const caught = new Promise<void>((resolve) => {
        holding = { text, after, caught: resolve, released };
      });
      return {
        caught,
        release() {
          holding = undefined;
          release();
        },
      };
    },
    loseAnswer: (text) =>
      new Promise((lost) => {
        losing = { text, lost };
      }),
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
