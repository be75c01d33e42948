import { Cluster, Redis } from 'ioredis';

export type RedisClient = Redis | Cluster;

/**
 * Connects to Redis, or to a Redis Cluster when the address says so (`?cluster=true`).
 * Commands fail at once while Redis is unavailable: the caller falls back or answers 503.
 * `patient`: they wait for it instead, and may block; for queues, whose work has no caller.
 * `repeats` false: a command whose connection breaks before its answer fails, and is not sent again, nor while a cluster
 * has no master for it; for commands that would count twice, and for callers who had rather do without.
 */
export function createRedis(
  url: string,
  onError: (error: Error) => void = () => {},
  { patient = false, repeats = true }: { patient?: boolean; repeats?: boolean } = {},
): RedisClient {
  const address = new URL(url);
  const cluster = address.searchParams.get('cluster') === 'true';
  address.searchParams.delete('cluster');
  const options = {
    maxRetriesPerRequest: patient ? null : repeats ? 1 : 0,
    enableOfflineQueue: patient,
    autoResendUnfulfilledCommands: repeats,
    connectTimeout: 2_000,
    // A Redis that hangs costs one of these; until it answers again commands fail at once.
    ...(patient ? {} : { socketTimeout: 2_000, commandTimeout: 4_000 }),
    retryStrategy: (attempt: number) => Math.min(50 * 2 ** Math.min(attempt, 6), 2_000),
  };
  const client = cluster
    ? new Cluster([{ host: address.hostname, port: Number(address.port || 6379) }], {
        enableOfflineQueue: patient,
        ...(repeats ? {} : { retryDelayOnFailover: 0, retryDelayOnClusterDown: 0 }),
        redisOptions: {
          ...options,
          ...(address.protocol === 'rediss:' ? { tls: {} } : {}),
          ...(address.password ? { password: decodeURIComponent(address.password) } : {}),
          ...(address.username ? { username: decodeURIComponent(address.username) } : {}),
        },
      })
    : new Redis(address.toString(), options);
  client.on('error', onError);
  if (cluster) client.on('+node', connectSoon);
  return client;
}

/**
 * A master is connected when it is heard of. By itself it would be at its first command, and fail those that come until it
 * is: a service's first calls, and those after a failover. Not at once: a command may be about to do it and must not fail.
 */
function connectSoon(node: Redis): void {
  queueMicrotask(() => {
    if (node.status === 'wait' && !node.options.readOnly) node.connect().catch(() => {});
  });
}

/** The servers that hold the data: the masters of a cluster, or the one there is. */
export function mastersOf(client: RedisClient): Redis[] {
  return 'nodes' in client ? client.nodes('master') : [client];
}

/** Resolves when the client can take commands; rejects after the deadline. */
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
