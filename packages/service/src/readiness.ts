import type { Log } from './log.ts';
import { mastersOf, type RedisClient } from './redis.ts';
import { storeFaultOf } from './store-errors.ts';

/** What `/readyz` says: `ok` false sends callers elsewhere, `notes` are what is worth knowing either way. */
export type Health = {
  ok: boolean;
  degraded: boolean;
  postgres: boolean;
  redis: boolean;
  notes: string[];
  [fact: string]: unknown;
};

export type Readiness = {
  /** Looks at the stores; answers within `DEADLINE_MS`, whatever they do. */
  health(): Promise<Health>;
  /** Remembers an error of a store: that it takes no writes shows nowhere else. */
  sawError(error: unknown): void;
};

export type ReadinessOptions = {
  postgres: {
    /** Asks Postgres for its clock, and whether it takes writes. */
    look(): Promise<{ at: number; readOnly: boolean }>;
  };
  redis: RedisClient;
  /** Share of Redis' `maxmemory` above which it counts as full. */
  memoryMark?: number;
  /** Whether the service can do its work with the stores that answer. */
  isOk(stores: { postgres: boolean; redis: boolean }): boolean;
  /** More to tell. */
  facts?(): Record<string, unknown>;
  log: Log;
  now?: () => number;
};

/** Notes have no words and no addresses of a store: the log has those. */
type Look = { available: boolean; notes: string[] };

const DEADLINE_MS = 1_500;
const MAX_SKEW_MS = 5_000;
/** An error of a write is news for this long; the loops that write try again more often. */
const WRITE_ERROR_MS = 30_000;
const MEMORY_MARK = 0.9;

/** Looks at the stores for `/readyz`, at most once at a time each, however often it is asked. */
export function createReadiness(options: ReadinessOptions): Readiness {
  const { postgres, redis, memoryMark = MEMORY_MARK, log, now = Date.now } = options;
  const refusedWrites = new Map<'postgres' | 'redis', number>();
  let told = '';

  const lookAtPostgres = single('Postgres', async () => {
    const sent = now();
    const { at, readOnly } = await postgres.look();
    return [...(readOnly ? ['Postgres is read-only.'] : []), ...skewOf('Postgres', at, sent, now())];
  });

  const lookAtRedis = single('Redis', async () => {
    if (redis.status !== 'ready') throw new Error(`the connection is ${redis.status}`);
    const found = await Promise.all(
      mastersOf(redis).map(async (node) => {
        const sent = now();
        const [seconds, microseconds] = await node.time();
        const skew = skewOf('Redis', Number(seconds) * 1000 + Number(microseconds) / 1000, sent, now());
        const memory = await node.info('memory');
        const [used, most] = [Number(fact(memory, 'used_memory')), Number(fact(memory, 'maxmemory'))];
        return [
          ...skew,
          ...(most > 0 && used > most * memoryMark ? ['Redis is above its memory mark.'] : []),
          ...(fact(memory, 'maxmemory_policy') === 'noeviction'
            ? []
            : ['Redis evicts keys: set maxmemory-policy noeviction.']),
        ];
      }),
    );
    return [...new Set(found.flat())];
  });

  /** One look at a time: a store that hangs must not be asked again and again. */
  function single(name: string, look: () => Promise<string[]>): () => Promise<Look> {
    let running: Promise<Look> | undefined;
    let hanging = false;
    const unavailable = { available: false, notes: [`${name} is unavailable.`] };
    return async () => {
      // A look that began before its question says nothing new, but one that hangs does.
      if (hanging) return unavailable;
      running ??= look()
        .then(
          (notes) => ({ available: true, notes }),
          (error: unknown) => {
            log.warn({ err: error, store: name }, 'a store is unavailable');
            return unavailable;
          },
        )
        .finally(() => {
          running = undefined;
          hanging = false;
        });
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<Look>((resolve) => {
        timer = setTimeout(() => {
          hanging = running !== undefined;
          resolve(unavailable);
        }, DEADLINE_MS);
      });
      const seen = await Promise.race([running, late]);
      clearTimeout(timer);
      return seen;
    };
  }

  return {
    async health() {
      const [ofPostgres, ofRedis] = await Promise.all([lookAtPostgres(), lookAtRedis()]);
      const stores = { postgres: ofPostgres.available, redis: ofRedis.available };
      const notes = [...ofPostgres.notes, ...ofRedis.notes];
      for (const [store, at] of refusedWrites) {
        if (now() - at > WRITE_ERROR_MS) refusedWrites.delete(store);
        else if (stores[store]) notes.push(`${store === 'postgres' ? 'Postgres' : 'Redis'} takes no writes.`);
      }
      if (notes.join() !== told) log.warn({ notes }, 'readiness changed');
      told = notes.join();
      return { ok: options.isOk(stores), degraded: notes.length > 0, ...stores, notes, ...options.facts?.() };
    },
    sawError(error) {
      const found = storeFaultOf(error);
      if (found?.store && found.fault === 'readOnly') refusedWrites.set(found.store, now());
    },
  };
}

/** That a store's clock and ours differ, by more than the question took. */
function skewOf(name: string, at: number, sent: number, received: number): string[] {
  const ahead = at > received ? at - received : at < sent ? at - sent : 0;
  if (Math.abs(ahead) <= MAX_SKEW_MS) return [];
  const seconds = Math.round(Math.abs(ahead) / 1000);
  return [`The clock of this process is ${seconds} s ${ahead > 0 ? 'behind' : 'ahead of'} that of ${name}.`];
}

const fact = (info: string, name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
