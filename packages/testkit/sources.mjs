import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Holds the hash of the sources that a package was built from. */
export const STAMP = '.built';

/** Returns a hash of what the build of a package reads: its sources without tests, and its settings. */
export function hashOfSources(folder) {
  const hash = createHash('sha256');
  for (const file of [...filesIn(join(folder, 'src')), 'package.json', 'tsconfig.build.json'].sort()) {
    const path = file.startsWith('/') ? file : join(folder, file);
    if (!existsSync(path) || /\.test\.tsx?$/.test(path)) continue;
    hash.update(`${relative(folder, path)}\0`).update(readFileSync(path)).update('\0');
  }
  return hash.digest('hex');
}

function filesIn(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
}
