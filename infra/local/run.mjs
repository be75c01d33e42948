import { spawnSync } from 'node:child_process';
import { resolve } from 'node:path';
import { clientEnv, ROOT } from './home.mjs';
import { ensureBuilt, ensureInstalled } from './pnpm.mjs';

// Runs a built script of this checkout with what it needs to reach the services that `npm start` runs.
const [script, ...args] = process.argv.slice(2);
ensureInstalled();
ensureBuilt();
const { status } = spawnSync(process.execPath, [resolve(ROOT, script), ...args], {
  stdio: 'inherit',
  env: await clientEnv(),
});
process.exit(status ?? 1);
