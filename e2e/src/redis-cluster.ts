import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, until } from '@tally/testkit';

/** A real Redis Cluster on this machine. */
export type RedisCluster = {
  url: string;
  /** Ends a node like `kill -9`. */
  kill(node: number): Promise<void>;
  /** Resolves when a node sees a complete cluster. */
  untilOk(node: number): Promise<void>;
  /** Deletes all data of a master and its replica: a loss of memory. */
  flush(node: number): void;
  /** Returns the master that serves a key. */
  nodeOf(key: string): number;
  /** Returns the nodes that serve keys. */
  masters(): number[];
  remove(): Promise<void>;
};

export async function startRedisCluster({
  masters,
  replicasEach,
}: {
  masters: number;
  replicasEach: number;
}): Promise<RedisCluster> {
  const home = await mkdtemp(join(tmpdir(), 'tally-cluster-'));
  const count = masters * (1 + replicasEach);
  const ports = await Promise.all(Array.from({ length: count }, freePort));
  const nodes = await Promise.all(ports.map((port) => startNode(home, port)));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  const replicas = ['--cluster-replicas', String(replicasEach), '--cluster-yes'];
  const created = spawnSync('redis-cli', ['--cluster', 'create', ...addresses, ...replicas], { encoding: 'utf8' });
  if (created.status !== 0) throw new Error(`${created.stdout}${created.stderr}`);
  for (const port of ports)
    await untilCluster(
      port,
      (info) => info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${count}`),
    );
  await untilReplicated(ports, masters * replicasEach);
  const kill = async ({ process }: { process: ChildProcess }) => {
    if (process.exitCode !== null || process.signalCode !== null) return;
    const exited = once(process, 'exit');
    process.kill('SIGKILL');
    await exited;
  };
  const alive = () => nodes.findIndex(({ process }) => process.exitCode === null && process.signalCode === null);
  /** Returns the masters that have slots, as a living node sees them: `id ip:port@bus … slots`. */
  const serving = () =>
    cli(ports[alive()]!, 'cluster', 'nodes')
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map(([, address, , , , , , , ...slots]) => ({
        node: ports.indexOf(Number(/:(\d+)@/.exec(address!)![1])),
        ranges: slots
          .map((range) => range.split('-').map(Number))
          .map(([first, last = first]) => [first!, last!] as const),
      }))
      .filter(({ ranges }) => ranges.length > 0);
  return {
    url: `redis://${addresses[0]}?cluster=true`,
    kill: (node) => kill(nodes[node]!),
    untilOk: (node) => untilCluster(ports[node]!, (info) => info.includes('cluster_state:ok')),
    flush: (node) => void cli(ports[node]!, 'flushall', 'sync'),
    nodeOf(key) {
      const slot = Number(cli(ports[alive()]!, 'cluster', 'keyslot', key));
      return serving().find(({ ranges }) => ranges.some(([first, last]) => slot >= first && slot <= last))!.node;
    },
    masters: () => serving().map(({ node }) => node),
    async remove() {
      await Promise.all(nodes.map(kill));
      await rm(home, { recursive: true, force: true });
    },
  };
}

async function startNode(home: string, port: number): Promise<{ port: number; process: ChildProcess }> {
  const dir = join(home, String(port));
  await mkdir(dir);
  const options = [
    '--port',
    port,
    '--dir',
    dir,
    '--cluster-enabled',
    'yes',
    '--cluster-node-timeout',
    1000,
    '--appendonly',
    'yes',
    '--save',
    '',
  ];
  const process = spawn('redis-server', [...options.map(String), '--bind', '127.0.0.1'], { stdio: 'ignore' });
  await until(`redis-server on port ${port}`, () => {
    if (process.exitCode !== null) throw new Error(`redis-server on ${port} ended with ${process.exitCode}`);
    return cli(port, 'ping').trim() === 'PONG';
  });
  return { port, process };
}

const cli = (port: number, ...args: string[]) =>
  spawnSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8' }).stdout;

async function untilCluster(port: number, is: (info: string) => boolean): Promise<void> {
  await until(`the Redis Cluster on port ${port}`, () => is(cli(port, 'cluster', 'info')));
}

async function untilReplicated(ports: number[], replicas: number): Promise<void> {
  const linked = () =>
    ports.filter((port) => cli(port, 'info', 'replication').includes('master_link_status:up')).length;
  await until(`${replicas} replicas to be linked`, () => linked() >= replicas);
}
