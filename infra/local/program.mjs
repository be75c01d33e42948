import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const has = (program) => spawnSync('sh', ['-c', `command -v "${program}"`]).status === 0;

/**
 * Returns the first of several programs found on PATH. If there is none, installs `packages` with apt-get as root on
 * Debian or Ubuntu; otherwise throws `howToGet`.
 */
export function programOf({ names, packages, howToGet, afterInstall = () => {} }) {
  const known = names.find(has);
  if (known) return known;
  if (process.getuid?.() !== 0 || !has('apt-get')) throw new Error(howToGet);
  console.log(`installing ${packages.join(', ')} (apt-get)`);
  // Only the program is needed: RUNLEVEL keeps the service from starting. policy-rc.d belongs to the system.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  // Test files install at the same time, and apt-get does not wait for another update.
  const inTurns = [
    '-w',
    '600',
    join(tmpdir(), 'tally-apt-get.lock'),
    'apt-get',
    '-qq',
    '-o',
    'DPkg::Lock::Timeout=120',
  ];
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', ...packages]]) {
    const result = spawnSync('flock', [...inTurns, ...args], { env, encoding: 'utf8' });
    if (result.status !== 0) throw new Error(`${howToGet}\napt-get ${args[0]} failed: ${result.stderr.slice(-500)}`);
  }
  afterInstall();
  const installed = names.find(has);
  if (!installed) throw new Error(howToGet);
  return installed;
}
