/** A real Redis Cluster on this machine. */
export type RedisCluster = {
  url: string;
  /** Ends a node like `kill -9`. */
  kill(node: number): Promise<void>;
  /** Starts a node that was killed, with the data that it kept: as a master if no replica has taken over. */
  start(node: number): Promise<void>;
  /** Resolves when a node sees a complete cluster. */
  untilOk(node: number): Promise<void>;
  /** Resolves when the cluster is complete and each replica follows its master. All nodes must run. */
  untilWhole(): Promise<void>;
  /** Deletes all data of a master and its replica: a loss of memory. */
  flush(node: number): void;
  /** Returns the master that serves a key. */
  nodeOf(key: string): number;
  /** Returns the nodes that serve keys. */
  masters(): number[];
  remove(): Promise<void>;
};

/** `durable`: each write is synced to the disk before it is acknowledged. */
export function startRedisCluster(options: {
  masters: number;
  replicasEach: number;
  durable?: boolean;
}): Promise<RedisCluster>;
