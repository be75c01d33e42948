export type MergerOptions<P> = {
  /** Adds a point to others of its key; false where they may not grow further. */
  merge(into: P, point: P): boolean;
  store(points: P): Promise<void>;
};

type Waiting<P> = { points: P; stored: Promise<void>; settle(stored: Promise<void>): void };

/**
 * Points of one key that come while others of it are on their way go together, in the next call of `store`: the more
 * come, the more share a call, and the first never waits. Each caller is told when its own are stored.
 */
export function createMerger<P>({ merge, store }: MergerOptions<P>): (key: string, point: P) => Promise<void> {
  const lanes = new Map<string, { waiting: Waiting<P> | undefined }>();

  function send(key: string, points: P): Promise<void> {
    const lane: { waiting: Waiting<P> | undefined } = { waiting: undefined };
    lanes.set(key, lane);
    const stored = store(points);
    const next = () => {
      if (lane.waiting) lane.waiting.settle(send(key, lane.waiting.points));
      else lanes.delete(key);
    };
    stored.then(next, next);
    return stored;
  }

  return async (key, point) => {
    for (;;) {
      const lane = lanes.get(key);
      if (!lane) return send(key, point);
      if (!lane.waiting) {
        lane.waiting = waitingWith(point);
        return lane.waiting.stored;
      }
      if (merge(lane.waiting.points, point)) return lane.waiting.stored;
      await lane.waiting.stored.catch(() => {});
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
