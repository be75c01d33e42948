import { setTimeout as wait } from 'node:timers/promises';
import pg from 'pg';

export type Listener = { close(): Promise<void> };

export type ListenOptions = {
  /** Called for each message, in the order of the commits. */
  onMessage(payload: string): void;
  /** Called whenever listening starts: earlier messages, and those sent while the connection was lost, are missing. */
  onGap(): void;
};

/**
 * Listens to a channel of Postgres on a connection of its own, and reconnects when it is lost. `usage_changed`
 * announces, with the commit, each merchant's day whose sums changed: `<merchantId> <date>`.
 */
export function listen(url: string, channel: string, { onMessage, onGap }: ListenOptions): Listener {
  const closing = new AbortController();
  let client: pg.Client | undefined;

  const done = (async () => {
    while (!closing.signal.aborted) {
      client = new pg.Client({ connectionString: url, application_name: `tally-listen-${channel}` });
      const lost = new Promise<void>((resolve) => {
        client!.once('end', resolve);
        client!.once('error', () => resolve());
      });
      try {
        await client.connect();
        client.on('notification', ({ payload }) => onMessage(payload ?? ''));
        await client.query(`listen ${pg.escapeIdentifier(channel)}`);
        onGap();
        await lost;
      } catch {
        // No connection was available; the next round tries again.
      }
      await client.end().catch(() => {});
      await wait(200 + Math.random() * 300, undefined, { signal: closing.signal }).catch(() => {});
    }
  })();

  return {
    async close() {
      closing.abort();
      await client?.end().catch(() => {});
      await done;
    },
  };
}
