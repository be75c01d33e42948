import { storeFaultOf } from '../errors/store-errors.ts';
import { failureLog, type Log } from '../process/log.ts';
import { mastersOf, type RedisClient } from './redis.ts';

/** The answer of `/readyz`: `ok` false sends callers elsewhere; `notes` are hints in both cases. */
export type Health = {
  ok: boolean;
  degraded: boolean;
  postgres: boolean;
  redis: boolean;
  notes: string[];
  [fact: string]: unknown;
};

export type Readiness = {
  /** Probes the stores; answers within `DEADLINE_MS` in any case. */
  health(): Promise<Health>;
  /** Remembers an error of a store: nothing else shows that it refuses writes. */
  sawError(error: unknown): void;
};

export type ReadinessOptions = {
  postgres: {
    /** Reads the clock of Postgres, whether it rejects writes, and whether its schema is older than this release. */
    look(): Promise<{ at: number; readOnly: boolean; outdated: boolean }>;
  };
  redis: RedisClient;
  /** The share of Redis' `maxmemory` above which Redis counts as full. */
  memoryMark?: number;
  /** Returns false if the service leaves out a store that answers. */
  isUsed?(store: Store): boolean;
  /** Returns true if the service can work with the stores that answer and are used. `writable`: that take writes. */
  isOk(stores: Record<Store, boolean>, writable: Record<Store, boolean>): boolean;
  /** Further notes. */
  facts?(): Record<string, unknown>;
  log: Log;
  now?: () => number;
};

type Store = 'postgres' | 'redis';

/** Notes never contain words or addresses of a store: those are in the log. */
type Look = { available: boolean; notes: string[] };

const DEADLINE_MS = 1_500;
const MAX_SKEW_MS = 5_000;
/** An error of a write counts for this long; the loops that write retry more often. */
const WRITE_ERROR_MS = 30_000;
const MEMORY_MARK = 0.9;
const NAMES = { postgres: 'Postgres', redis: 'Redis' };

/** Probes the stores for `/readyz`, each at most once at a time. */
export function createReadiness(options: ReadinessOptions): Readiness {
  const { postgres, redis, memoryMark = MEMORY_MARK, isUsed = () => true, log, now = Date.now } = options;
  const refusedWrites = new Map<Store, number>();
  let told = '';
  /** Nothing works then, whatever answers: a rollout must stop at the first new process. */
  let isOutdated = false;
  let isReadOnly = false;

  const lookAtPostgres = single('postgres', async () => {
    const sent = now();
    const { at, readOnly, outdated } = await postgres.look();
    [isOutdated, isReadOnly] = [outdated, readOnly];
    return [
      ...(outdated ? ['The schema of Postgres is older than this release: run its migrations.'] : []),
      ...(readOnly ? ['Postgres is read-only.'] : []),
      ...skewOf('Postgres', at, sent, now()),
    ];
  });

  const lookAtRedis = single('redis', async () => {
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

  /** One probe at a time, since a store that hangs must not get more of them. */
  function single(store: Store, look: () => Promise<string[]>): () => Promise<Look> {
    let running: Promise<Look> | undefined;
    let hanging = false;
    const unavailable = { available: false, notes: [`${NAMES[store]} is unavailable.`] };
    const failed = failureLog(log, `${NAMES[store]} is unavailable`, { level: 'warn', now });
    return async () => {
      // A probe that began before the call may be outdated, but a hanging one is not.
      if (hanging) return unavailable;
      running ??= look()
        .then(
          (notes) => {
            if (isUsed(store)) return { available: true, notes };
            return { available: false, notes: notes.length > 0 ? notes : [`${NAMES[store]} is being checked.`] };
          },
          (error: unknown) => {
            failed(error);
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
      const writable = { postgres: stores.postgres && !isReadOnly, redis: stores.redis };
      const notes = [...ofPostgres.notes, ...ofRedis.notes];
      for (const [store, at] of refusedWrites) {
        if (now() - at > WRITE_ERROR_MS) {
          refusedWrites.delete(store);
          continue;
        }
        writable[store] = false;
        if (stores[store]) notes.push(`${NAMES[store]} takes no writes.`);
      }
      if (notes.join() !== told) log.warn({ notes }, 'readiness changed');
      told = notes.join();
      return {
        ok: options.isOk(stores, writable) && !isOutdated,
        degraded: notes.length > 0,
        ...stores,
        notes,
        ...options.facts?.(),
      };
    },
    sawError(error) {
      const found = storeFaultOf(error);
      if (found?.store && found.fault === 'readOnly') refusedWrites.set(found.store, now());
    },
  };
}

/** Reports a difference between a store's clock and ours beyond the duration of the probe. */
function skewOf(name: string, at: number, sent: number, received: number): string[] {
  const ahead = at > received ? at - received : at < sent ? at - sent : 0;
  if (Math.abs(ahead) <= MAX_SKEW_MS) return [];
  const seconds = Math.round(Math.abs(ahead) / 1000);
  return [`The clock of this process is ${seconds} s ${ahead > 0 ? 'behind' : 'ahead of'} that of ${name}.`];
}

const fact = (info: string, name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1];
