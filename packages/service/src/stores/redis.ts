import { Cluster, Redis } from 'ioredis';

export type RedisClient = Redis | Cluster;

/** The single server, or the named nodes of a cluster; `shared` is the address of the first. */
type Place = { shared: URL; nodes: { host: string; port: number }[]; isCluster: boolean };

/**
 * Reads an address such as `redis://user:password@one:6379,two:6379?cluster=true`. Throws if it is none, or names
 * several nodes without being of a cluster.
 */
export function placeOf(url: string): Place {
  const [, before, hosts, after] = /^(rediss?:\/\/(?:[^/?]*@)?)([^/?]+)(.*)$/.exec(url) ?? [];
  if (hosts === undefined) throw new Error('Expected redis://… or rediss://…');
  const addresses = hosts.split(',').map((host) => new URL(before + host + after));
  if (addresses.some(({ hostname }) => hostname === '')) throw new Error('A node has no name');
  const [shared] = addresses as [URL];
  const isCluster = shared.searchParams.get('cluster') === 'true';
  if (addresses.length > 1 && !isCluster) throw new Error('Several nodes need ?cluster=true');
  shared.searchParams.delete('cluster');
  const nodes = addresses.map(({ hostname, port }) => ({
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: Number(port || 6379),
  }));
  return { shared, nodes, isCluster };
}

/**
 * Connects to Redis, or by any of its named nodes to a Redis Cluster, if the address says so (`?cluster=true`). Commands
 * fail at once while Redis is unavailable: the caller falls back or answers 503. `patient`: commands wait instead and
 * may block, for queues, whose work has no caller. `repeats` false: a command is never sent twice. It fails if its
 * connection breaks before the answer, or while a cluster has no master for it. Use it for commands that would count
 * twice.
 */
export function createRedis(
  url: string,
  onError: (error: Error) => void = () => {},
  { patient = false, repeats = true }: { patient?: boolean; repeats?: boolean } = {},
): RedisClient {
  const { shared, nodes, isCluster } = placeOf(url);
  const options = {
    maxRetriesPerRequest: patient ? null : repeats ? 1 : 0,
    enableOfflineQueue: patient,
    autoResendUnfulfilledCommands: repeats,
    connectTimeout: 2_000,
    // Redis may hang: this bounds one command; later ones fail at once until Redis answers again.
    ...(patient ? {} : { socketTimeout: 2_000, commandTimeout: 4_000 }),
    retryStrategy: (attempt: number) => Math.min(50 * 2 ** Math.min(attempt, 6), 2_000),
  };
  const client = isCluster
    ? new Cluster(nodes, {
        enableOfflineQueue: patient,
        // After a failed check, `connect()` of ioredis 6 never settles, and a worker of BullMQ that reconnects waits on it.
        enableReadyCheck: !patient,
        ...(repeats ? {} : { retryDelayOnFailover: 0, retryDelayOnClusterDown: 0 }),
        redisOptions: {
          ...options,
          ...(shared.protocol === 'rediss:' ? { tls: {} } : {}),
          ...(shared.password ? { password: decodeURIComponent(shared.password) } : {}),
          ...(shared.username ? { username: decodeURIComponent(shared.username) } : {}),
        },
      })
    : new Redis(shared.toString(), options);
  client.on('error', onError);
  if (isCluster) client.on('+node', connectSoon);
  return client;
}

/**
 * Connects a master when it is discovered. Otherwise it connects at its first command, and commands fail meanwhile:
 * those of a starting service, and those after a failover. Deferred, since a command that already connects must not
 * fail.
 */
function connectSoon(node: Redis): void {
  queueMicrotask(() => {
    if (node.status === 'wait' && !node.options.readOnly) node.connect().catch(() => {});
  });
}

/** Returns the servers with the data: the masters of a cluster, or the single server. */
export function mastersOf(client: RedisClient): Redis[] {
  return 'nodes' in client ? client.nodes('master') : [client];
}

/** Begins the keys of cached answers: analytics-api writes them, and a job of usage-ingest removes them. */
export const CACHED_ANSWERS = 'metrics:dashboard';

/** Removes all keys that begin with a prefix without special characters; returns how many. */
export async function removeKeys(client: RedisClient, prefix: string): Promise<number> {
  let removed = 0;
  for (const node of mastersOf(client)) {
    let cursor = '0';
    do {
      const [next, found] = await node.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', 1_000);
      cursor = next;
      // One call a key: a cluster node accepts only keys of one slot.
      for (const gone of await Promise.all(found.map((key) => client.unlink(key)))) removed += gone;
    } while (cursor !== '0');
  }
  return removed;
}

/** Resolves when the client accepts commands; rejects after the deadline. */
export async function redisReady(client: RedisClient, deadlineMs = 10_000): Promise<void> {
  if (client.status === 'ready') return;
  await new Promise<void>((resolve, reject) => {
    const ready = () => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      client.off('ready', ready);
      reject(new Error(`Redis did not answer within ${deadlineMs} ms`));
    }, deadlineMs);
    client.once('ready', ready);
  });
}
