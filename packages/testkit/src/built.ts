import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isBuilt } from '../sources.mjs';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const checked = new Set<string>();

/**
 * Throws unless a package of `root`, such as `apps/usage-ingest`, and the packages it uses are built from their present
 * sources. Tests that run a build call it first, so that they never test an old build.
 */
export function assertBuilt(folder: string, root = ROOT): void {
  const path = join(root, folder);
  if (checked.has(path)) return;
  if (!isBuilt(path)) throw new Error(`${folder} is not built from its present sources: run \`npm run build\`.`);
  const { dependencies = {} } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>;
  };
  for (const [name, version] of Object.entries(dependencies))
    if (version.startsWith('workspace:')) assertBuilt(`packages/${name.replace('@tally/', '')}`, root);
  checked.add(path);
}
