import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { helpOrContinue } from './help.mjs';
import { ROOT } from './home.mjs';
import { ensureBuilt, ensureInstalled, toolEnv, workspaces } from './pnpm.mjs';
import { runProgram, stopSignal } from './processes.mjs';
import { startServers } from './servers.mjs';

const TURBO = join(ROOT, 'node_modules', '.bin', 'turbo');
const started = Date.now();
const args = process.argv.slice(2);
helpOrContinue('test', args);
const signal = stopSignal();
let home;
let servers;
let code = 1;

try {
  await ensureInstalled({ signal });
  // A test that runs `npm start` must not rebuild what other tests run.
  await ensureBuilt({ signal });
  const tested = testedWorkspaces();
  await Promise.all(tested.map((folder) => rm(reportOf(folder), { force: true })));
  home = await mkdtemp(join(tmpdir(), 'tally-test-'));
  servers = await startServers({ home, durable: false, signal });
  // `--only`: everything is built, and a build restored from the cache would pull `dist` away from running tests. A
  // package runs two files at once, beside two of `e2e`: more would only wait for the processor, and for each other.
  const run = ['run', 'test', '--only', '--continue=always', '--concurrency=1', '--output-logs=new-only'];
  const env = { ...toolEnv(), TEST_DATABASE_URL: servers.databaseUrl, TEST_REDIS_URL: servers.redisUrl };
  const statuses = await Promise.all(
    parts().map((part) => runProgram(TURBO, [...run, ...part], { cwd: ROOT, env, signal })),
  );
  const { passed, failed, skipped, failures } = addUp(tested);
  code = statuses.some((status) => status !== 0) || failed > 0 || passed === 0 ? 1 : 0;
  await clear();
  // Last, so that an excerpt of a long log shows what failed.
  for (const failure of failures) console.log(`FAILED ${failure}\n`);
  console.log(`${((Date.now() - started) / 1000).toFixed(0)} s`);
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
} catch (error) {
  console.error(signal.aborted ? 'stopped' : `npm test failed: ${error.message}`);
  await clear();
}
process.exit(code);

async function clear() {
  await servers?.remove();
  if (home) await rm(home, { recursive: true, force: true });
}

/** The arguments of each run of turbo. The tests of `e2e` take longest and mostly wait: they start at once. */
function parts() {
  return args.length > 0 ? [args] : [['--filter=@tally/e2e'], ['--filter=!@tally/e2e']];
}

/** The workspaces with tests, limited to those of the arguments. */
function testedWorkspaces() {
  const all = workspaces().filter(
    (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).scripts?.test,
  );
  if (args.length === 0) return all;
  const plan = spawnSync(TURBO, ['run', 'test', '--dry=json', ...args], {
    cwd: ROOT,
    env: toolEnv(),
    encoding: 'utf8',
  });
  if (plan.status !== 0) throw new Error(plan.stderr);
  const chosen = JSON.parse(plan.stdout).tasks.filter(({ task }) => task === 'test');
  return all.filter((folder) => chosen.some(({ directory }) => directory === relative(ROOT, folder)));
}

function reportOf(folder) {
  return join(folder, '.results', 'vitest.json');
}

function addUp(folders) {
  const sum = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const folder of folders) {
    if (!existsSync(reportOf(folder))) {
      sum.failures.push(`${relative(ROOT, folder)} left no report`);
      sum.failed++;
      continue;
    }
    const report = JSON.parse(readFileSync(reportOf(folder), 'utf8'));
    sum.passed += report.numPassedTests;
    // A file that could not be loaded has no failed test.
    sum.failed += report.numFailedTests + (report.success || report.numFailedTests > 0 ? 0 : 1);
    sum.failures.push(...failuresOf(report));
    sum.skipped += report.numPendingTests + report.numTodoTests;
  }
  return sum;
}

/** Returns each failed test, and each file that could not be loaded, with the first lines of its message. */
function failuresOf(report) {
  return report.testResults.flatMap((file) => {
    const name = relative(ROOT, file.name);
    const tests = file.assertionResults.filter(({ status }) => status === 'failed');
    if (tests.length === 0 && file.status === 'failed') return [`${name}\n${headOf(file.message)}`];
    return tests.map((test) => `${name}: ${test.fullName}\n${headOf(test.failureMessages.join('\n'))}`);
  });
}

function headOf(message) {
  return message.split('\n').slice(0, 15).join('\n').slice(0, 2_000);
}
