import { spawnSync } from 'node:child_process';

const has = (program) => spawnSync('sh', ['-c', `command -v "${program}"`]).status === 0;

/**
 * Returns the first of some programs that is on PATH. Where none is, installs `packages` with apt-get, if this is root on
 * Debian or Ubuntu; otherwise throws `howToGet`.
 */
export function programOf({ names, packages, howToGet, afterInstall = () => {} }) {
  const known = names.find(has);
  if (known) return known;
  if (process.getuid?.() !== 0 || !has('apt-get')) throw new Error(howToGet);
  console.log(`installing ${packages.join(', ')} (apt-get)`);
  // Installed for its program only, so a service is told not to start; policy-rc.d would be the system's to write.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  for (const args of [['update'], ['install', '-y', '--no-install-recommends', ...packages]]) {
    const result = spawnSync('apt-get', ['-qq', '-o', 'DPkg::Lock::Timeout=120', ...args], { env, encoding: 'utf8' });
    if (result.status !== 0) throw new Error(`${howToGet}\napt-get ${args[0]} failed: ${result.stderr.slice(-500)}`);
  }
  afterInstall();
  const installed = names.find(has);
  if (!installed) throw new Error(howToGet);
  return installed;
}
