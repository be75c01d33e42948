import { Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import pg from 'pg';
import { sql } from './run-sql.ts';

const PROBE_MS = 1_000;
/** Longer than a busy server takes for the simplest statement on a connection of its own. */
const DEADLINE_MS = 5_000;

export type HangGuard = {
  /** Creates the socket of a new connection of the pool. */
  stream(): Socket;
  /** Pings Postgres on a connection of its own that no statement delays. */
  ping(): Promise<void>;
  close(): void;
};

/**
 * Closes the connections of a pool when Postgres keeps them open but stops answering, like a stopped process or a lost
 * network. Running statements then fail as if the server were down, instead of waiting without end. A busy server
 * answers the probe, which has a connection of its own, so long statements continue.
 */
export function createHangGuard(url: string): HangGuard {
  const sockets = new Set<Socket>();
  let probe: { client: pg.Client; socket: Socket } | undefined;
  /** The running probe. */
  let asked: { at: number } | undefined;

  function opened(socket: Socket): Socket {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return socket;
  }

  async function ask(): Promise<void> {
    if (!probe) {
      const socket = new Socket();
      const settings = { connectionString: url, stream: () => socket, connectionTimeoutMillis: 2 * DEADLINE_MS };
      const mine = { client: new pg.Client({ ...settings, application_name: 'tally-probe' }), socket };
      probe = mine;
      mine.client.on('error', () => {});
      mine.client.once('end', () => {
        if (probe === mine) probe = undefined;
      });
      await mine.client.connect().catch((error: unknown) => {
        if (probe === mine) probe = undefined;
        throw error;
      });
    }
    await probe?.client.query(sql('schema/ping'));
  }

  function drop(): void {
    const error = Object.assign(new Error('Postgres does not answer.'), { code: 'ETIMEDOUT' });
    for (const socket of sockets) socket.destroy(error);
    probe?.socket.destroy();
    probe = undefined;
  }

  async function look(): Promise<void> {
    if (sockets.size === 0) return;
    if (asked) {
      if (performance.now() - asked.at < DEADLINE_MS) return;
      const late = asked;
      // An answer may have arrived while this process was busy, so read it first.
      await turn();
      await turn();
      if (asked !== late) return;
      asked = undefined;
      drop();
      return;
    }
    const mine = { at: performance.now() };
    asked = mine;
    await ask().catch(() => {
      // Refused or cut off: so are the connections of the pool, and nothing waits.
      if (asked === mine) probe = undefined;
    });
    if (asked === mine) asked = undefined;
  }

  const timer = setInterval(() => void look(), PROBE_MS);
  timer.unref();
  return {
    stream: () => opened(new Socket()),
    ping: ask,
    close() {
      clearInterval(timer);
      probe?.socket.destroy();
      probe = undefined;
    },
  };
}
