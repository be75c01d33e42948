import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100;

/** Returns the CPU seconds that a process and its children have used, including ended ones. Linux. */
export function cpuSecondsOf(pid) {
  let ticks = 0;
  for (const [of, { parent, own, reaped }] of processes()) {
    if (of === pid) ticks += own + reaped;
    else if (parent === pid) ticks += own;
  }
  return ticks / TICKS_PER_SECOND;
}

function processes() {
  const found = new Map();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    try {
      // The command in parentheses may contain spaces; fields are counted after it.
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number);
      found.set(pid, { parent: Number(fields[1]), own: utime + stime, reaped: cutime + cstime });
    } catch {
      // It ended during the read.
    }
  }
  return found;
}

/** Returns the resident memory of a process, in MiB. Linux. */
export function memoryOf(pid) {
  const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(kib) / 1024;
}
