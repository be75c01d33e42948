import { execFileSync } from 'node:child_process';
import { build } from 'esbuild';
import { ROOT } from './home.mjs';

// Checks that the programs without types (benchmarks, chaos, launchers) import files and names that exist: bundles them
// after a build, and keeps nothing. Prints each problem and exits with 1 if there is any.
const entryPoints = execFileSync('git', ['ls-files', 'bench/*.mjs', 'e2e/*.mjs', 'infra/*.mjs'], {
  cwd: ROOT,
  encoding: 'utf8',
})
  .trim()
  .split('\n');
await build({
  absWorkingDir: ROOT,
  entryPoints,
  outdir: 'unused',
  bundle: true,
  write: false,
  format: 'esm',
  platform: 'node',
  packages: 'external',
  logLevel: 'warning',
}).catch(() => process.exit(1));
