import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

const LINUX = process.platform === 'linux';
const TAIL_BYTES = 4000;
/** One Ctrl-C may arrive twice: from the terminal, and forwarded by npm. */
const SAME_PRESS_MS = 500;
const PARENT_CHECK_MS = 500;

const running = new Set();

/**
 * Starts a program in a process group of its own, so that the terminal's Ctrl-C reaches only this process, which
 * chooses the order of stopping. The program writes to `logFile` itself, so it keeps its log if this process is killed.
 */
export function startProcess({ name, command, args, env, cwd, user, logFile }) {
  const log = openSync(logFile, 'a', 0o600);
  const from = fstatSync(log).size;
  const identity = user ? { uid: user.uid, gid: user.gid } : {};
  const child = spawn(command, args, { cwd, env, detached: true, stdio: ['ignore', log, log], ...identity });
  closeSync(log);
  const exited = exitOf(child);
  return {
    name,
    pid: child.pid,
    /** Resolves with the exit code, the name of the signal, or the error of a failed start. */
    exited,
    tail: () => endOf(logFile, from),
    kill: (signal) => child.kill(signal),
    /** Asks it to end, and kills it after the deadline. */
    async end(signal, deadlineMs = 10_000) {
      child.kill(signal);
      const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

/**
 * Runs a program with its output shown; resolves with its exit code, 1 after a signal. With `signal` it gets a process
 * group of its own, which an abort ends as a whole; otherwise it shares this terminal.
 */
export async function runProgram(command, args, { cwd, env, signal }) {
  const own = signal !== undefined;
  const child = spawn(command, args, {
    cwd,
    env,
    detached: own,
    stdio: [own ? 'ignore' : 'inherit', 'inherit', 'inherit'],
  });
  const exited = exitOf(child, () => child.pid && signalProcess(-child.pid, 'SIGKILL'));
  const forward = (name) => child.kill(name);
  const waitFor = () => {};
  const abort = () => {
    if (!child.pid) return;
    signalProcess(-child.pid, 'SIGINT');
    setTimeout(() => signalProcess(-child.pid, 'SIGKILL'), 10_000).unref();
  };
  if (own) {
    signal.addEventListener('abort', abort, { once: true });
    if (signal.aborted) abort();
  } else {
    // The terminal has signalled it already, so only wait.
    process.on('SIGINT', waitFor);
    process.on('SIGTERM', forward);
  }
  const how = await exited;
  signal?.removeEventListener('abort', abort);
  process.off('SIGINT', waitFor);
  process.off('SIGTERM', forward);
  return typeof how === 'number' ? how : 1;
}

function exitOf(child, kill = () => child.kill('SIGKILL')) {
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? code));
  });
  running.add(kill);
  void exited.then(() => running.delete(kill));
  return exited;
}

/**
 * Aborted by the first SIGINT, SIGTERM or SIGHUP, and when the npm that started this process is gone. A second signal
 * kills everything started here and exits.
 */
export function stopSignal() {
  const stop = new AbortController();
  let first = 0;
  const asked = () => {
    if (!stop.signal.aborted) {
      first = Date.now();
      stop.abort(new Error('stopped'));
    } else if (Date.now() - first > SAME_PRESS_MS) {
      for (const kill of running) kill();
      process.exit(1);
    }
  };
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, asked);
  // Output without a reader fails, which must not end this process before it stops what it started.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  whenNpmIsGone(() => {
    if (!stop.signal.aborted) asked();
  });
  return stop.signal;
}

/** npm forwards signals to the shell in between, and the shell does not pass them on. */
function whenNpmIsGone(then) {
  if (!process.env.npm_lifecycle_event) return;
  const parent = process.ppid;
  const npm = /^\S*sh -c /.test(commandOf(parent)) ? parentOf(parent) : parent;
  const check = () => {
    if (process.ppid === parent && isAlive(npm)) return;
    clearInterval(timer);
    then();
  };
  const timer = setInterval(check, PARENT_CHECK_MS).unref();
}

/** Asks a process that is not a child to end, and kills it after the deadline. */
export async function endProcess(pid, signal, deadlineMs = 10_000) {
  const deadline = Date.now() + deadlineMs;
  for (signalProcess(pid, signal); isAlive(pid); await wait(20)) {
    if (Date.now() > deadline) signalProcess(pid, 'SIGKILL');
  }
}

/** Sends a signal; returns false if there is no such process. */
function signalProcess(pid, signal) {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

/** Returns true if a process lives; a zombie does not. */
function isAlive(pid) {
  return signalProcess(pid, 0) && !['', 'Z', 'X'].includes(statusOf(pid).state);
}

const parentOf = (pid) => statusOf(pid).parent;

/** Slim images have no `ps`, and macOS has no /proc. */
function statusOf(pid) {
  const line = LINUX
    ? // The name, in parentheses, may contain anything.
      readOr(`/proc/${pid}/stat`).replace(/^.*\) /s, '')
    : spawnSync('ps', ['-o', 'stat=,ppid=', '-p', String(pid)], { encoding: 'utf8' }).stdout;
  const [state = '', parent] = line.trim().split(/\s+/);
  return { state: state.slice(0, 1), parent: Number(parent) };
}

/** Returns the command line of a living process; '' without one. */
export function commandOf(pid) {
  if (LINUX) return readOr(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
  return spawnSync('ps', ['-ww', '-o', 'args=', '-p', String(pid)], { encoding: 'utf8' }).stdout.trim();
}

/** Records a process, so that the next start finds it if this process is killed. */
export function rememberPid(file, pid) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${pid}\n`);
}

/**
 * Writes this process to `file`, unless it names a living process whose command line contains `partOfCommand`: then
 * returns that one.
 */
export function claimPidFile(file, partOfCommand) {
  const ours = `${file}.${process.pid}`;
  rememberPid(ours, process.pid);
  try {
    for (;;) {
      try {
        // A link appears complete or not at all, and only once.
        linkSync(ours, file);
        return undefined;
      } catch (error) {
        if (error.code !== 'EEXIST') throw error;
      }
      const other = readPid(file);
      if (other && commandOf(other).includes(partOfCommand)) return other;
      rmSync(file, { force: true });
    }
  } finally {
    rmSync(ours, { force: true });
  }
}

/** Ends what an earlier start left behind, if it still is the recorded process: process ids are used again. */
export async function endRemembered(file, partOfCommand, signal = 'SIGTERM') {
  const pid = readPid(file);
  if (pid && commandOf(pid).includes(partOfCommand)) await endProcess(pid, signal);
  rmSync(file, { force: true });
}

/** The number on the first line of a file. */
export function readPid(file) {
  const pid = Number.parseInt(readOr(file), 10);
  return pid > 1 ? pid : undefined;
}

/** Waits until `check` returns true; throws with `what` if the process ends or the deadline passes first. */
export async function until(check, { what, process: watched, deadlineMs }) {
  const deadline = Date.now() + deadlineMs;
  let ended = false;
  void watched.exited.then(() => {
    ended = true;
  });
  while (!(await check())) {
    if (ended) throw new Error(`${what} ended:\n${watched.tail()}`);
    if (Date.now() > deadline) throw new Error(`${what} is not ready after ${deadlineMs / 1000} s:\n${watched.tail()}`);
    await wait(25);
  }
}

function readOr(file, otherwise = '') {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return otherwise;
  }
}

/** Returns the end of what was written to a file after its first `from` bytes. */
function endOf(file, from) {
  const log = openSync(file, 'r');
  try {
    const { size } = fstatSync(log);
    // A truncated log is shorter than before.
    const start = Math.max(size < from ? 0 : from, size - TAIL_BYTES);
    const bytes = Buffer.alloc(Math.max(0, size - start));
    readSync(log, bytes, 0, bytes.length, start);
    return bytes.toString();
  } finally {
    closeSync(log);
  }
}
