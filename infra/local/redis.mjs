import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { portIn, secretIn } from './home.mjs';
import { endRemembered, rememberPid, startProcess, until } from './processes.mjs';
import { programOf } from './program.mjs';

const HOW_TO_GET =
  'No redis-server or valkey-server on PATH: install one (apt-get install redis-server, brew install redis).';
/** Loading a large append-only file takes time. */
const READY_DEADLINE_MS = 300_000;

/** The private Redis: redis-server or valkey-server of PATH, a password, loopback only, every write synced. */
export async function privateRedis({ home, durable }) {
  const command = redisBinary();
  const folder = join(home, 'redis');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const password = await secretIn(join(home, 'redis-password'));
  const endLeftovers = () => endRedisOf(home);
  await endLeftovers();
  const port = await portIn(portFileOf(home));
  const config = join(folder, 'redis.conf');
  // In a file: everyone could read the password on a command line.
  await writeFile(config, configuration({ folder, port, password, durable }), { mode: 0o600 });

  return {
    name: 'redis',
    url: `redis://:${password}@127.0.0.1:${port}/0`,
    stopSignal: 'SIGTERM',
    endLeftovers,
    launch() {
      const running = startProcess({
        name: 'redis',
        command,
        args: [config],
        env: { PATH: process.env.PATH },
        cwd: folder,
        logFile: join(home, 'logs', 'redis.log'),
      });
      if (running.pid) rememberPid(pidFileOf(home), running.pid);
      return running;
    },
    ready: (running) =>
      until(() => answers(port, password), { what: 'Redis', process: running, deadlineMs: READY_DEADLINE_MS }),
    async remove() {},
  };
}

/** Ends the server that an earlier process left running on a home. */
export async function endRedisOf(home) {
  const port = await readFile(portFileOf(home), 'utf8').catch(() => 'none');
  // Redis shows its address in place of its arguments.
  await endRemembered(pidFileOf(home), `127.0.0.1:${port.trim()}`);
}

const pidFileOf = (home) => join(home, 'run', 'redis.pid');
const portFileOf = (home) => join(home, 'redis-port');

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
      ? [
          'appendonly yes',
          'appendfsync always',
          'no-appendfsync-on-rewrite no',
          // With the default of 64 MB, a busy Redis compacts its log every few seconds, and calls wait for each time.
          'auto-aof-rewrite-min-size 256mb',
          'databases 16',
        ]
      : ['appendonly no', 'databases 10000']),
  ].join('\n')}\n`;
}

/** Returns true when the server accepts commands: it listens before it has loaded its data. */
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

/** Returns the program of the server; installs it first if allowed. */
const redisBinary = () =>
  programOf({
    names: ['redis-server', 'valkey-server'],
    packages: ['redis-server'],
    howToGet: HOW_TO_GET,
    afterInstall() {
      // systemd ignores RUNLEVEL; the service is new, so nobody misses it.
      if (existsSync('/run/systemd/system')) spawnSync('systemctl', ['disable', '--now', 'redis-server']);
    },
  });
