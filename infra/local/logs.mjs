import { copyFile, readdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';

const MAX_BYTES = 64 * 1024 * 1024;
const EVERY_MS = 10_000;

/**
 * Keeps each log of a folder below a size until `signal` is aborted: a larger one becomes `<name>.log.1`, replacing the
 * previous one. Programs write to their files themselves, so files are copied and emptied; a line written in between is
 * lost.
 */
export function boundLogs(folder, signal) {
  const timer = setInterval(() => cutLogs(folder).catch(() => {}), EVERY_MS).unref();
  signal.addEventListener('abort', () => clearInterval(timer), { once: true });
}

export async function cutLogs(folder, maxBytes = MAX_BYTES) {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.log'));
  for (const file of names.map((name) => join(folder, name))) {
    if ((await stat(file)).size <= maxBytes) continue;
    await copyFile(file, `${file}.1`);
    await truncate(file);
  }
}
