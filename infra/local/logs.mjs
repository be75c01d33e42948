import { copyFile, readdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';

const MAX_BYTES = 64 * 1024 * 1024;
const EVERY_MS = 10_000;

/**
 * Keeps each log of a folder below a size, until `signal` is aborted: what is larger becomes `<name>.log.1`, in place of the
 * one before. The programs write to their files themselves, so these are copied and emptied; a line that is written between
 * the two is lost.
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
