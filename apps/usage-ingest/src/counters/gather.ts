import { setImmediate as nextTurn } from 'node:timers/promises';

export type Gathered<Item> = {
  items: readonly Item[];
  bytes: number;
  /** Called once the call is written, so that later commands on the same connection run after it. */
  onSent?(): void;
};

/**
 * Group commit: requests of one turn of the event loop are sent together if no call is running; otherwise they go with
 * the next call. A call takes requests in order, up to its limits, and at least one. A call that fails rejects all its
 * requests.
 */
export function createGather<Item, Result>(options: {
  maxItems: number;
  maxBytes: number;
  /** Returns one result per item, in order. */
  send(items: readonly Item[]): Promise<readonly Result[]>;
}): (request: Gathered<Item>) => Promise<readonly Result[]> {
  type Waiting = Gathered<Item> & {
    resolve(results: readonly Result[]): void;
    reject(error: unknown): void;
  };
  let waiting: Waiting[] = [];
  let underWay = false;

  function nextCall(): Waiting[] {
    let [items, bytes, count] = [0, 0, 0];
    for (const request of waiting) {
      items += request.items.length;
      bytes += request.bytes;
      if (count > 0 && (items > options.maxItems || bytes > options.maxBytes)) break;
      count++;
    }
    const call = waiting.slice(0, count);
    waiting = waiting.slice(count);
    return call;
  }

  async function sendAll(): Promise<void> {
    underWay = true;
    await nextTurn();
    while (waiting.length > 0) {
      const call = nextCall();
      try {
        const sending = options.send(call.length === 1 ? call[0]!.items : call.flatMap((each) => each.items));
        for (const { onSent } of call) onSent?.();
        const results = await sending;
        let from = 0;
        for (const { items, resolve } of call) {
          resolve(results.slice(from, from + items.length));
          from += items.length;
        }
      } catch (error) {
        for (const { reject } of call) reject(error);
      }
    }
    underWay = false;
  }

  return ({ items, bytes, onSent }) =>
    new Promise((resolve, reject) => {
      waiting.push({ items, bytes, ...(onSent && { onSent }), resolve, reject });
      if (!underWay) void sendAll();
    });
}
