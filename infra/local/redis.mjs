import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { portIn, secretIn } from './home.mjs';
import { endRemembered, rememberPid, startProcess, until } from './processes.mjs';

const HOW_TO_GET =
  'No redis-server or valkey-server on PATH: install one (apt-get install redis-server, brew install redis).';

/** The private Redis: redis-server or valkey-server of PATH, a password, loopback only, every write synced. */
export async function privateRedis({ home, durable }) {
  const command = await redisBinary();
  const folder = join(home, 'redis');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const password = await secretIn(join(home, 'redis-password'));
  const port = await portIn(join(home, 'redis-port'));
  const config = join(folder, 'redis.conf');
  const pidFile = join(home, 'run', 'redis.pid');
  // In a file, not on the command line, where everyone could read the password.
  await writeFile(config, configuration({ folder, port, password, durable }), { mode: 0o600 });

  return {
    name: 'redis',
    url: `redis://:${password}@127.0.0.1:${port}/0`,
    stopSignal: 'SIGTERM',
    async start() {
      await endRemembered(pidFile, 'redis');
      const running = startProcess({
        name: 'redis',
        command,
        args: [config],
        env: { PATH: process.env.PATH },
        cwd: folder,
        logFile: join(home, 'logs', 'redis.log'),
      });
      if (running.child.pid) await rememberPid(pidFile, running.child.pid);
      await until(() => answers(port, password), { what: 'Redis', running });
      return running;
    },
    async remove() {},
  };
}

function configuration({ folder, port, password, durable }) {
  return `${[
    'bind 127.0.0.1',
    `port ${port}`,
    `requirepass ${password}`,
    `dir "${folder}"`,
    'daemonize no',
    'save ""',
    'maxmemory-policy noeviction',
    'maxmemory 2gb',
    ...(durable
      ? ['appendonly yes', 'appendfsync always', 'no-appendfsync-on-rewrite no', 'databases 16']
      : ['appendonly no', 'databases 10000']),
  ].join('\n')}\n`;
}

/** True when the server takes commands: it listens before it has read its data. */
function answers(port, password) {
  return new Promise((done) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(`AUTH ${password}\r\nPING\r\n`));
    let reply = '';
    const end = (ready) => {
      socket.destroy();
      done(ready);
    };
    socket.setTimeout(1_000, () => end(false));
    socket.on('error', () => end(false));
    socket.on('data', (chunk) => {
      reply += chunk;
      if (reply.includes('+PONG')) end(true);
      else if (reply.includes('LOADING')) end(false);
    });
  });
}

/** The server's program; installed first where we may. */
export async function redisBinary() {
  const known = onPath();
  if (known) return known;
  if (process.getuid?.() !== 0 || !has('apt-get')) throw new Error(HOW_TO_GET);
  console.log('installing redis-server (apt-get)');
  // Installed for its program only: policy-rc.d would be the system's to write, so the service is told not to start.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', 'redis-server']]) {
    const result = spawnSync('apt-get', ['-qq', ...args], { env, encoding: 'utf8' });
    if (result.status !== 0) throw new Error(`${HOW_TO_GET}\napt-get ${args[0]} failed: ${result.stderr.slice(-500)}`);
  }
  const installed = onPath();
  if (!installed) throw new Error(HOW_TO_GET);
  return installed;
}

const onPath = () => ['redis-server', 'valkey-server'].find(has);
const has = (program) => spawnSync('sh', ['-c', `command -v ${program}`]).status === 0;
