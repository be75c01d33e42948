import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Db } from '@tally/db';
import { type Loop, type RedisClient, startLoop } from '@tally/service';
import { z } from 'zod';
import { createVersionedList, type VersionedList } from '../versioned-list.ts';
import { createPriceIndex, createPriceList, type PriceList } from './price-list.ts';

/** The interval at which a process checks the version of the list. */
const REFRESH_MS = 1_000;

/** Prices that are made ready before others have their turn: some milliseconds. */
const PRICES_AT_ONCE = 2_000;

/** The list as Postgres and its copy in Redis have it. */
const Stored = z.object({
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

export type PriceRegistry = VersionedList<PriceList> & {
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
  const list = createVersionedList({
    ...{ redis, key: 'registry:prices', copy: Stored },
    store: { version: store.version, load: store.current },
    async prepare({ version, prices }) {
      const index = createPriceIndex();
      for (const [at, price] of prices.entries()) {
        if (at % PRICES_AT_ONCE === 0) await nextTurn();
        index.add(price);
      }
      return createPriceList({ version, index });
    },
  });
  return { ...list, start: (onError) => startLoop(REFRESH_MS, list.refresh, onError) };
}
