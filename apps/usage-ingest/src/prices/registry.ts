import type { Db, PriceVersion } from '@tally/db';
import { type Loop, type RedisClient, startLoop } from '@tally/service';
import { z } from 'zod';
import { createPriceList, type PriceList } from './price-list.ts';

/** The interval at which a process checks the version of the list. */
const REFRESH_MS = 1_000;

/** The copy of the list in Redis, for a service that starts while Postgres is unavailable. */
const MIRROR_KEY = 'registry:prices';

const Mirror = z.object({
  version: z.string(),
  prices: z.array(
    z.object({
      id: z.string(),
      provider: z.string(),
      model: z.string(),
      meter: z.string(),
      merchantId: z.string(),
      component: z.enum(['input', 'cached_input', 'cache_write', 'output', 'reasoning', 'request', 'unit']),
      overPromptTokens: z.string(),
      amount: z.string(),
      per: z.string(),
      validFrom: z.coerce.date(),
      validTo: z.coerce.date().nullable(),
      source: z.string(),
      createdAt: z.coerce.date(),
      createdBy: z.string(),
      addedIn: z.string(),
      removedIn: z.string().nullable(),
    }),
  ),
});

export type PriceRegistry = {
  /** The newest list that this process knows; undefined without one. */
  current(): PriceList | undefined;
  /** Loads the list if it has changed. Rejects if neither store has it. */
  refresh(): Promise<void>;
  /** Refreshes every second until it is stopped. */
  start(onError: (error: unknown) => void): Loop;
};

/** The price list that this process uses: at most some seconds behind `prices`. */
export function createPriceRegistry({
  store,
  redis,
}: {
  store: Pick<Db['prices'], 'version' | 'current'>;
  redis: RedisClient;
}): PriceRegistry {
  let list: PriceList | undefined;
  let mirrored: string | undefined;

  const use = (loaded: PriceVersion) => {
    // An older list may arrive later.
    if (list !== undefined && BigInt(loaded.version) < BigInt(list.version)) return;
    list = createPriceList(loaded);
  };

  /** An emptied Redis gets its copy with the next version; a failed copy is retried. */
  async function mirror(loaded: PriceVersion): Promise<void> {
    await redis.set(MIRROR_KEY, JSON.stringify(loaded));
    mirrored = loaded.version;
  }

  async function refresh(): Promise<void> {
    try {
      const version = await store.version();
      if (version === list?.version && version === mirrored) return;
      const loaded = await store.current();
      use(loaded);
      await mirror(loaded).catch(() => {});
    } catch (error) {
      if (list !== undefined) throw error;
      const text = await redis.get(MIRROR_KEY).catch(() => null);
      if (text === null) throw error;
      use(Mirror.parse(JSON.parse(text)));
    }
  }

  return { current: () => list, refresh, start: (onError) => startLoop(REFRESH_MS, refresh, onError) };
}
