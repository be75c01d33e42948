import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readFileSync, renameSync, statSync, unlinkSync, utimesSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

export type Lock = {
  /** Renews the sign of life; returns false if another process took the directory. */
  renew(): boolean;
  release(): void;
};

type Holder = { pid: number; host: string; started: string; token: string };

/** A holder on another machine counts as gone after this time without a sign of life. */
const FOREIGN_STALE_MS = 30_000;
const held = new Set<string>();

/**
 * Locks a directory for this process: throws at once if a living process holds it. Takes over a dead process's lock,
 * also if its process id belongs to another process now.
 */
export function takeLock(directory: string): Lock {
  const path = join(directory, 'lock');
  const own: Holder = { pid: process.pid, host: hostname(), started: startOf(process.pid), token: randomUUID() };
  for (let tries = 0; tries < 10; tries++) {
    try {
      const file = openSync(path, 'wx', 0o600);
      writeSync(file, JSON.stringify(own));
      closeSync(file);
      held.add(own.token);
      return {
        renew() {
          try {
            if (read(path)?.token !== own.token) return false;
            utimesSync(path, new Date(), new Date());
            return true;
          } catch {
            return false;
          }
        },
        release() {
          held.delete(own.token);
          if (read(path)?.token === own.token) unlinkSync(path);
        },
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const other = read(path);
    if (other && lives(other, path)) {
      throw new Error(`The spool ${directory} is in use by process ${other.pid} on ${other.host}; give each its own.`);
    }
    takeAway(path, other);
  }
  throw new Error(`The lock of the spool ${directory} could not be taken: others are taking it too.`);
}

/** Moves a dead holder's lock aside; if a faster process has just put its own there, puts that back. */
function takeAway(path: string, dead: Holder | undefined): void {
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
    if (read(aside)?.token !== dead?.token) renameSync(aside, path);
    else unlinkSync(aside);
  } catch {
    // Another process was faster: the next try sees its lock.
  }
}

function lives(holder: Holder, path: string): boolean {
  if (holder.host !== hostname()) {
    try {
      return Date.now() - statSync(path).mtimeMs < FOREIGN_STALE_MS;
    } catch {
      return false;
    }
  }
  if (holder.pid === process.pid) return held.has(holder.token);
  try {
    process.kill(holder.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  return holder.started === startOf(holder.pid);
}

/** Returns when a process began, in the kernel's own ticks; '' if unknown. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function read(path: string): Holder | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Holder;
  } catch {
    return undefined;
  }
}
