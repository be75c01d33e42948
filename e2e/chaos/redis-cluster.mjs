import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { freePort } from '../../infra/local/ports.mjs';

const DEADLINE_MS = 120_000;

export async function startRedisCluster({ masters, replicasEach, durable = false }) {
  const home = await mkdtemp(join(tmpdir(), 'tally-cluster-'));
  const count = masters * (1 + replicasEach);
  const ports = await Promise.all(Array.from({ length: count }, freePort));
  const launch = (port) => startNode(home, port, durable);
  const nodes = await Promise.all(ports.map(launch));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  const replicas = ['--cluster-replicas', String(replicasEach), '--cluster-yes'];
  const created = spawnSync('redis-cli', ['--cluster', 'create', ...addresses, ...replicas], { encoding: 'utf8' });
  if (created.status !== 0) throw new Error(`${created.stdout}${created.stderr}`);
  /** Resolves when all nodes see a complete cluster, with all replicas linked. */
  const untilWhole = async () => {
    for (const port of ports)
      await untilCluster(
        port,
        (info) => info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${count}`),
      );
    await until(`${masters * replicasEach} replicas to be linked`, () => {
      const linked = ports.filter((port) => cli(port, 'info', 'replication').includes('master_link_status:up'));
      return linked.length === masters * replicasEach;
    });
  };
  await untilWhole();
  const kill = async (process) => {
    if (!isAlive(process)) return;
    const exited = once(process, 'exit');
    process.kill('SIGKILL');
    await exited;
  };
  const alive = () => nodes.findIndex(isAlive);
  /** Returns the masters that have slots, as a living node sees them: `id ip:port@bus … slots`. */
  const serving = () =>
    cli(ports[alive()], 'cluster', 'nodes')
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map(([, address, , , , , , , ...slots]) => ({
        node: ports.indexOf(Number(/:(\d+)@/.exec(address)[1])),
        ranges: slots.map((range) => range.split('-').map(Number)).map(([first, last = first]) => [first, last]),
      }))
      .filter(({ ranges }) => ranges.length > 0);
  return {
    url: `redis://${addresses.join(',')}?cluster=true`,
    kill: (node) => kill(nodes[node]),
    async start(node) {
      nodes[node] = await launch(ports[node]);
    },
    untilOk: (node) => untilCluster(ports[node], (info) => info.includes('cluster_state:ok')),
    untilWhole,
    flush: (node) => void cli(ports[node], 'flushall', 'sync'),
    nodeOf(key) {
      const slot = Number(cli(ports[alive()], 'cluster', 'keyslot', key));
      return serving().find(({ ranges }) => ranges.some(([first, last]) => slot >= first && slot <= last)).node;
    },
    masters: () => serving().map(({ node }) => node),
    async remove() {
      await Promise.all(nodes.map(kill));
      await rm(home, { recursive: true, force: true });
    },
  };
}

const isAlive = (process) => process.exitCode === null && process.signalCode === null;

async function startNode(home, port, durable) {
  const dir = join(home, String(port));
  await mkdir(dir, { recursive: true });
  const settings = {
    port,
    dir,
    bind: '127.0.0.1',
    'cluster-enabled': 'yes',
    'cluster-node-timeout': 1000,
    appendonly: 'yes',
    appendfsync: durable ? 'always' : 'everysec',
    save: '',
  };
  const options = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const process = spawn('redis-server', options, { stdio: 'ignore' });
  await until(`redis-server on port ${port}`, () => {
    if (!isAlive(process)) throw new Error(`redis-server on ${port} ended with ${process.exitCode}`);
    return cli(port, 'ping').trim() === 'PONG';
  });
  return process;
}

const cli = (port, ...args) => spawnSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8' }).stdout;

const untilCluster = (port, is) => until(`the Redis Cluster on port ${port}`, () => is(cli(port, 'cluster', 'info')));

async function until(what, holds) {
  for (const deadline = Date.now() + DEADLINE_MS; !holds(); await wait(50))
    if (Date.now() > deadline) throw new Error(`waited ${DEADLINE_MS / 1000} s for: ${what}`);
}
