import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';

/**
 * Starts a program in a process group of its own, so that the terminal's Ctrl-C reaches only us and we choose the order
 * in which things stop. Output goes to `logFile`; the last of it is kept for when the program dies.
 */
export function startProcess({ name, command, args, env, cwd, user, logFile }) {
  const child = spawn(command, args, {
    cwd,
    env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(user ? { uid: user.uid, gid: user.gid } : {}),
  });
  let tail = '';
  const log = logFile ? createWriteStream(logFile, { flags: 'a', mode: 0o600 }) : undefined;
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      log?.write(chunk);
      tail = (tail + chunk).slice(-4000);
    });
  }
  const exited = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? code));
  });
  // Children of a killed server write on; the log ends with the last of them.
  child.once('close', () => log?.end());
  return { name, child, exited, tail: () => tail };
}

/** Asks a process to end, and makes it when it does not within the deadline. */
export async function endProcess(pid, signal, deadlineMs = 10_000) {
  if (!signalProcess(pid, signal)) return;
  const deadline = Date.now() + deadlineMs;
  while (isAlive(pid)) {
    if (Date.now() > deadline) signalProcess(pid, 'SIGKILL');
    await wait(20);
  }
}

/** Sends a signal; false where there is no such process. */
export function signalProcess(pid, signal) {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

/** Whether a process lives; one that has ended but was not yet waited for does not. */
export function isAlive(pid) {
  if (!signalProcess(pid, 0)) return false;
  const { stdout } = spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' });
  return stdout.trim() !== '' && !stdout.trim().startsWith('Z');
}

/** The command line of a living process; '' where there is none. */
export function commandOf(pid) {
  return spawnSync('ps', ['-ww', '-o', 'args=', '-p', String(pid)], { encoding: 'utf8' }).stdout?.trim() ?? '';
}

/** Remembers a process, so that the next start finds it should this one be killed. */
export async function rememberPid(file, pid) {
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `${pid}\n`);
}

/** Ends what an earlier start left behind, if it still is what was remembered. */
export async function endRemembered(file, partOfCommand, signal = 'SIGTERM') {
  const pid = await readPid(file);
  if (pid && commandOf(pid).includes(partOfCommand)) await endProcess(pid, signal);
  await rm(file, { force: true });
}

export async function readPid(file) {
  const text = await readFile(file, 'utf8').catch(() => '');
  const pid = Number.parseInt(text, 10);
  return Number.isInteger(pid) && pid > 1 ? pid : undefined;
}

/** Waits until `check` is true; throws with `what` when the process ends or the deadline passes first. */
export async function until(check, { what, running, deadlineMs = 60_000 }) {
  const deadline = Date.now() + deadlineMs;
  let ended = false;
  void running?.exited.then(() => {
    ended = true;
  });
  while (!(await check())) {
    if (ended) throw new Error(`${what} ended:\n${running.tail()}`);
    if (Date.now() > deadline)
      throw new Error(`${what} was not ready after ${deadlineMs / 1000} s\n${running?.tail() ?? ''}`);
    await wait(25);
  }
}
