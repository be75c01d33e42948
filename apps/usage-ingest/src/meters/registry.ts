import { randomUUID } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { type ScaleOf, TallyError } from '@tally/contracts';
import { type Db, RegistrySnapshot, type ValueCheck } from '@tally/db';
import { coalesce, type RedisClient } from '@tally/service';
import type { Result } from 'ioredis';
import type { RedisKeys } from '../counters/keys.ts';
import { lua } from '../counters/lua.ts';

/** What meters determine about checking events, from one version. */
export type Registry = {
  version: number;
  scaleOf: ScaleOf;
  /** True if any metric type has decimals: most installations have none. */
  hasScales: boolean;
  values: readonly ValueCheck[];
};

/** Returns the decimals of metric types whose amounts were read before. */
export type Scales = (metricTypes: Iterable<string>) => Promise<ScaleOf>;

export type RegistryReader = {
  /** Returns the registry that this process last loaded. Throws UNAVAILABLE if it never could. */
  current(): Promise<Registry>;
  /** Loads the registry again and publishes its version: from then on no process uses an older one. */
  reload(): Promise<Registry>;
  /**
   * Runs work while no event is accepted through Redis, and publishes the change. One process does so at a time. `work`
   * calls `renew` before it changes anything: it throws UNAVAILABLE if too much time has passed. Throws UNAVAILABLE if
   * another change takes too long, and if Redis is unavailable, since pending events are then unknown.
   */
  alone<T>(work: (renew: () => Promise<void>) => Promise<T>): Promise<T>;
  scales: Scales;
};

declare module 'ioredis' {
  interface RedisCommander<Context> {
    publishRegistry(key: string, version: number, before: number): Result<number, Context>;
  }
}

/** How long a request waits for a change of the registry before it gets 503. */
const PATIENCE_MS = 10_000;
const RETRY_MS = 25;
const CHANGING = 'changing';
/** A change whose process died ends after this time; Postgres ends its transaction before. */
const CHANGING_MS = 60_000;
/** Names the change that is under way: the end of another one would let events be accepted. */
const CHANGER = 'registry:changer';
const MIRROR = 'registry:meters';

/**
 * The registry of meters as ingest uses it. Redis has its version, once per shard: the script that stores events
 * answers `stale` to a process with another one. Redis also has a copy, for a process that starts without Postgres.
 */
export function createRegistry({
  db,
  redis,
  keys,
}: {
  db: Pick<Db, 'metricTypes'>;
  redis: RedisClient;
  keys: RedisKeys;
}): RegistryReader {
  redis.defineCommand('publishRegistry', { numberOfKeys: 1, lua: lua('publish-registry') });
  let known: Registry | undefined;
  let loaded: RegistrySnapshot | undefined;

  const versionKeys = () => Array.from({ length: keys.shards }, (_, shard) => keys.registry(shard));

  /** Publishes what was loaded after Redis knew the version `before`. Returns a newer version that it knows, or 0. */
  async function publish(snapshot: RegistrySnapshot, before = 0): Promise<number> {
    const [, ...newer] = await Promise.all([
      redis.set(MIRROR, JSON.stringify(snapshot)),
      ...versionKeys().map((key) => redis.publishRegistry(key, snapshot.version, before)),
    ]);
    return Math.max(0, ...newer);
  }

  async function fromMirror(): Promise<RegistrySnapshot | undefined> {
    const text = await redis.get(MIRROR).catch(() => null);
    return text === null ? undefined : RegistrySnapshot.safeParse(JSON.parse(text)).data;
  }

  const fromPostgres = () => db.metricTypes.registry().catch(() => undefined);

  function use(snapshot: RegistrySnapshot | undefined): void {
    if (!snapshot) return;
    loaded = snapshot;
    known = registryOf(snapshot);
  }

  const reload = coalesce(async (): Promise<Registry> => {
    const stored = await fromPostgres();
    const mirrored = stored ? undefined : await fromMirror();
    use(stored ?? (mirrored && mirrored.version >= (loaded?.version ?? 0) ? mirrored : undefined));
    if (!known || !loaded)
      throw new TallyError('UNAVAILABLE', 'The meters are unknown: Postgres is unavailable. Try again.', {
        details: { retryAfter: 1 },
      });
    // Redis may be unavailable; the script answers `stale` until it has a version.
    const newer = await publish(loaded).catch(() => 0);
    if (stored && newer > 0) {
      // A version that Redis knew before Postgres had an older one is none of its versions: Postgres was restored.
      use(await fromPostgres());
      await publish(loaded, newer).catch(() => {});
    }
    return known;
  });

  return {
    current: async () => known ?? reload(),
    reload,
    async alone(work) {
      const change = randomUUID();
      const away = (cause: unknown) => {
        throw new TallyError('UNAVAILABLE', 'A scale cannot be declared while Redis is unavailable; try again.', {
          cause,
        });
      };
      const isMine = async () => (await redis.get(CHANGER)) === change;
      const mark = async () => {
        await redis.pexpire(CHANGER, CHANGING_MS);
        await Promise.all(versionKeys().map((key) => redis.set(key, CHANGING, 'PX', CHANGING_MS)));
      };
      const begun = performance.now();
      while ((await redis.set(CHANGER, change, 'PX', CHANGING_MS, 'NX').catch(away)) === null) {
        if (performance.now() - begun > PATIENCE_MS)
          throw new TallyError('UNAVAILABLE', 'Another scale is being declared; try again.', {
            details: { retryAfter: 1 },
          });
        await wait(RETRY_MS);
      }
      try {
        await mark().catch(away);
        return await work(async () => {
          if (!(await isMine()))
            throw new TallyError('UNAVAILABLE', 'The flush before the scale is declared took too long; try again.');
          await mark();
        });
      } finally {
        if (await isMine().catch(() => false)) {
          await Promise.all(versionKeys().map((key) => redis.del(key))).catch(() => {});
          await reload().catch(() => {});
          await redis.del(CHANGER).catch(() => {});
        }
      }
    },
    async scales(metricTypes) {
      try {
        return await db.metricTypes.scales(metricTypes);
      } catch (error) {
        if (known) return known.scaleOf;
        throw error;
      }
    },
  };
}

function registryOf({ version, scales, values }: RegistrySnapshot): Registry {
  const byType = new Map(scales);
  return { version, scaleOf: (type) => byType.get(type) ?? 0, hasScales: byType.size > 0, values };
}

/** Loads the registry until an attempt is not stale. Throws UNAVAILABLE if a change takes too long. */
export async function whileStale(
  registry: RegistryReader,
  attempt: (registry: Registry) => Promise<boolean>,
): Promise<void> {
  const started = performance.now();
  let now = await registry.current();
  while (await attempt(now)) {
    if (performance.now() - started > PATIENCE_MS)
      throw new TallyError('UNAVAILABLE', 'The meters are being changed; send the same batch again.', {
        details: { retryAfter: 1 },
      });
    await wait(RETRY_MS);
    now = await registry.reload();
  }
}
