export type MergerOptions<P> = {
  /** Adds a point to others of its key; returns false if they may not grow further. */
  merge(into: P, point: P): boolean;
  store(points: P): Promise<void>;
};

type Waiting<P> = { points: P; stored: Promise<void>; settle(stored: Promise<void>): void };

/**
 * Merges points of one key that arrive while others of it are being stored: they go together, in the next call of
 * `store`. The first never waits. Each caller is answered when its own points are stored.
 */
export function createMerger<P>({ merge, store }: MergerOptions<P>): (key: string, point: P) => Promise<void> {
  const calls = new Map<string, { waiting: Waiting<P> | undefined }>();

  function send(key: string, points: P): Promise<void> {
    const call: { waiting: Waiting<P> | undefined } = { waiting: undefined };
    calls.set(key, call);
    const stored = store(points);
    const next = () => {
      if (call.waiting) call.waiting.settle(send(key, call.waiting.points));
      else calls.delete(key);
    };
    stored.then(next, next);
    return stored;
  }

  return async (key, point) => {
    for (;;) {
      const call = calls.get(key);
      if (!call) return send(key, point);
      if (!call.waiting) {
        call.waiting = waitingWith(point);
        return call.waiting.stored;
      }
      if (merge(call.waiting.points, point)) return call.waiting.stored;
      await call.waiting.stored.catch(() => {});
    }
  };
}

function waitingWith<P>(points: P): Waiting<P> {
  let settle!: Waiting<P>['settle'];
  const stored = new Promise<void>((resolve) => {
    settle = resolve;
  });
  return { points, stored, settle };
}
