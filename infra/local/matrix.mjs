import { spawnSync } from 'node:child_process';
import { ROOT } from './home.mjs';

// Runs the whole test suite on each supported major version of Node.js. The package `node` brings the versions.
const VERSIONS = ['20', '22', '24'];

const results = VERSIONS.map((version) => {
  const { status } = spawnSync('npx', ['-y', '-p', `node@${version}`, '--', 'node', 'infra/local/test.mjs'], {
    cwd: ROOT,
    stdio: 'inherit',
  });
  return { version, status };
});
for (const { version, status } of results) console.log(`Node.js ${version}: ${status === 0 ? 'passed' : 'failed'}`);
process.exit(results.every(({ status }) => status === 0) ? 0 : 1);
