import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { scripts } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  scripts: Record<string, string>;
};
/** Commands of other tools. */
const FOREIGN = ['verify', 'verify:all', 'format', 'build'];
/** Its many options need more than a line. */
const LONG = 'parity';
const names = Object.keys(scripts).filter((name) => !FOREIGN.includes(name) && name !== LONG);
/** Runs a command as npm does, with nothing of this environment that reaches a store. */
const run = (name: string, ...args: string[]) =>
  spawnSync('sh', ['-c', `${scripts[name]} "$@"`, name, ...args], {
    ...{ cwd: ROOT, encoding: 'utf8' as const, env: { PATH: process.env.PATH } },
  });

test.each(names)('npm run %s answers --help, and does nothing else', (name) => {
  const { status, stdout, stderr } = run(name, '--help');
  expect(stderr).toBe('');
  expect(stdout).toMatch(new RegExp(`^Usage: npm (run )?${name}( -- .+)?\\n\\n.+\\.\\n$`));
  expect(status).toBe(0);
});

test('npm run parity answers --help with all of its options', () => {
  const { status, stdout, stderr } = run(LONG, '--help');
  expect(stderr).toBe('');
  expect(stdout).toMatch(/^Usage: npm run parity -- --source .+\n/);
  for (const option of ['--url', '--meter', '--from', '--to', '--by', '--customers', '--merchants'])
    expect(stdout).toContain(`${option} `);
  expect(status).toBe(0);
});

test.each(['start', 'dev', 'demo', 'health', 'job:after-restore', 'job:rebuild', 'db:distribute'])(
  'npm run %s refuses an option that it does not have before it does anything',
  (name) => {
    const { status, stdout, stderr } = run(name, '--surplus');
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^--surplus is not an argument of this command\.\nUsage: /);
    expect(status).toBe(1);
  },
);
