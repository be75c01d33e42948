import { setImmediate as nextTurn } from 'node:timers/promises';

export type Gathered<Item> = { items: readonly Item[]; bytes: number };

/**
 * Group commit: sends a request at once if no call is running; otherwise it goes with the next call. A call takes
 * requests in order, up to its limits, and at least one. A call that fails rejects all its requests.
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
    while (waiting.length > 0) {
      const call = nextCall();
      try {
        const results = await options.send(call.length === 1 ? call[0]!.items : call.flatMap((each) => each.items));
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

  return (request) =>
    new Promise((resolve, reject) => {
      waiting.push({ ...request, resolve, reject });
      if (!underWay) void sendAll();
    });
}

/**
 * Sends the requests of one turn of the event loop together, however many calls are running. `sent` resolves once the
 * call is written, so that later commands on the same connection run after it.
 */
export function createTurnGather<Item, Result>(options: {
  maxItems: number;
  send(items: readonly Item[]): Promise<readonly Result[]>;
}): (items: readonly Item[]) => { sent: Promise<void>; results: Promise<readonly Result[]> } {
  type Turn = { items: Item[]; sent: Promise<void>; results: Promise<readonly Result[]> };
  let turn: Turn | undefined;

  function begin(): Turn {
    const items: Item[] = [];
    const sending = nextTurn().then(() => {
      if (turn?.items === items) turn = undefined;
      return { call: options.send(items) };
    });
    const results = sending.then(({ call }) => call);
    // A caller may use only `sent`.
    results.catch(() => {});
    return { items, sent: sending.then(() => {}), results };
  }

  return (items) => {
    if (!turn || turn.items.length + items.length > options.maxItems) turn = begin();
    const { sent, results } = turn;
    const from = turn.items.length;
    turn.items.push(...items);
    const own = results.then((all) => all.slice(from, from + items.length));
    own.catch(() => {});
    return { sent, results: own };
  };
}
