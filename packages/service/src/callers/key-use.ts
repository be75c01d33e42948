/** Records the use of a key in memory, so that calls never wait. */
export type KeyUse = (id: string) => void;

export type KeyUseOptions = {
  save(uses: readonly { id: string; at: number }[]): Promise<void>;
  /** Called if a batch of uses could not be saved; those uses are lost. */
  onError(error: unknown): void;
  now: () => number;
};

/** The last use of a key is saved at most once in this time. */
const GRAIN_MS = 60_000;
/** Uses are collected for this long and saved with one statement. */
const GATHER_MS = 1_000;
/** As many as are known: one that is forgotten is saved again at its next call. */
const MAX_KEYS = 100_000;

/** Saves the last use of each key in the background: at most once a minute per key, and one statement a second. */
export function createKeyUse({ save, onError, now }: KeyUseOptions): KeyUse {
  const lastUsed = new Map<string, number>();
  let batch = new Map<string, number>();

  function saveBatch(): void {
    const uses = [...batch].map(([id, at]) => ({ id, at }));
    batch = new Map();
    void save(uses).catch(onError);
  }

  return (id) => {
    const at = now();
    if (at - (lastUsed.get(id) ?? Number.NEGATIVE_INFINITY) < GRAIN_MS) return;
    lastUsed.delete(id);
    if (lastUsed.size >= MAX_KEYS) lastUsed.delete(lastUsed.keys().next().value!);
    lastUsed.set(id, at);
    if (batch.size === 0) setTimeout(saveBatch, GATHER_MS).unref();
    if (batch.size < MAX_KEYS) batch.set(id, at);
  };
}
