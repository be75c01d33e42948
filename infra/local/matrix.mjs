import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { helpOrContinue } from './help.mjs';
import { ROOT } from './home.mjs';

// Runs the whole test suite on each supported major version of Node.js. The package `node` brings the versions. Random
// tests use another seed each time and run as often as they should, so that these runs find what `npm test` with its
// fixed seed and few runs does not.
const VERSIONS = ['20', '22', '24'];

helpOrContinue('matrix', process.argv.slice(2));
const results = VERSIONS.map((version) => {
  const seed = process.env.FC_SEED ?? String(randomInt(2 ** 31));
  const { status } = spawnSync('npx', ['-y', '-p', `node@${version}`, '--', 'node', 'infra/local/test.mjs'], {
    cwd: ROOT,
    stdio: 'inherit',
    env: { ...process.env, FC_SEED: seed, FC_LONG: '1' },
  });
  return { version, status, seed };
});
for (const { version, status, seed } of results)
  console.log(`Node.js ${version}: ${status === 0 ? 'passed' : 'failed'} (FC_SEED=${seed})`);
process.exit(results.every(({ status }) => status === 0) ? 0 : 1);
