import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The file with the hash of the sources that a package was built from. */
export const STAMP = '.built';

/** Files beside `src` that builds read. */
const SETTINGS = [
  'package.json',
  'tsconfig.build.json',
  'tsconfig.json',
  'vite.config.mjs',
  '../../tsconfig.base.json',
];

/** Returns whether a package is built from its present sources. */
export function isBuilt(folder) {
  const stamp = join(folder, STAMP);
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === hashOfSources(folder);
}

/** Returns a hash of the files that the build of a package reads: its sources without tests, and its settings. */
export function hashOfSources(folder) {
  const sources = readdirSync(join(folder, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.\w+$/.test(file) && !/\.test\.tsx?$/.test(file))
    .map((file) => join('src', file));
  const hash = createHash('sha256');
  for (const file of [...sources, ...SETTINGS].sort()) {
    const path = join(folder, file);
    if (existsSync(path)) hash.update(`${file}\0`).update(readFileSync(path)).update('\0');
  }
  return hash.digest('hex');
}
