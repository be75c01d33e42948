import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from './home.mjs';
import { ensureInstalled, toolEnv, workspaces } from './pnpm.mjs';
import { signalProcess } from './processes.mjs';
import { startServers } from './servers.mjs';

const started = Date.now();
ensureInstalled();
const tested = workspaces().filter(
  (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).scripts?.test,
);
const reportOf = (folder) => join(folder, '.results', 'vitest.json');
await Promise.all(tested.map((folder) => rm(reportOf(folder), { force: true })));

const home = await mkdtemp(join(tmpdir(), 'tally-test-'));
const servers = await startServers({ home, durable: false });
const child = spawn(
  join(ROOT, 'node_modules', '.bin', 'turbo'),
  ['run', 'test', '--continue=always', '--output-logs=new-only', ...process.argv.slice(2)],
  {
    cwd: ROOT,
    stdio: ['ignore', 'inherit', 'inherit'],
    env: { ...toolEnv(), TEST_DATABASE_URL: servers.databaseUrl, TEST_REDIS_URL: servers.redisUrl },
  },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => signalProcess(child.pid, signal));
const status = await new Promise((done) => {
  child.once('error', () => done(1));
  child.once('exit', (code) => done(code ?? 1));
});
await servers.remove();
await rm(home, { recursive: true, force: true });

const sum = { passed: 0, failed: 0, skipped: 0 };
for (const folder of tested) {
  if (!existsSync(reportOf(folder))) {
    console.error(`${folder.slice(ROOT.length + 1)} left no report`);
    sum.failed++;
    continue;
  }
  const report = JSON.parse(readFileSync(reportOf(folder), 'utf8'));
  sum.passed += report.numPassedTests;
  sum.failed += report.numFailedTests + (report.success || report.numFailedTests > 0 ? 0 : 1);
  sum.skipped += report.numPendingTests + report.numTodoTests;
}
console.log(`${((Date.now() - started) / 1000).toFixed(0)} s`);
console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
process.exit(status !== 0 || sum.failed > 0 || sum.passed === 0 ? 1 : 0);
