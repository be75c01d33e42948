import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, isFree } from './ports.mjs';

export const ROOT = resolve(fileURLToPath(new URL('../..', import.meta.url)));

/** The folder of a private installation: data, keys and logs. */
export function homeOf(env = process.env) {
  return resolve(ROOT, env.TALLY_HOME || '.tally');
}

/** Creates a home if needed; returns its real path, by which its processes are recognised. */
export async function makeHome(home) {
  await mkdir(home, { recursive: true });
  // Others may pass through to their own files (Postgres runs as another user than root) but not list it. A folder with
  // content is the user's to protect.
  if ((await readdir(home)).length === 0) await chmod(home, 0o711);
  for (const folder of ['run', 'logs']) await mkdir(join(home, folder), { recursive: true, mode: 0o700 });
  return realpath(home);
}

/** Returns a secret that is created once and kept in a file that only its owner may read. */
export async function secretIn(file, make = () => randomBytes(24).toString('base64url')) {
  const known = await readFile(file, 'utf8').catch(() => '');
  if (known.trim()) return known.trim();
  const secret = make();
  await writeFile(file, `${secret}\n`, { mode: 0o600 });
  return secret;
}

/** Returns a free port of the loopback interface: the one remembered in `file` if it is still free. */
export async function portIn(file) {
  const known = Number(await readFile(file, 'utf8').catch(() => '0'));
  if (known > 0 && (await isFree(known))) return known;
  const port = await freePort();
  await writeFile(file, `${port}\n`);
  return port;
}

/** Environment variables by which scripts of this checkout reach the services of `npm start`. */
export async function clientEnv(env = process.env) {
  const home = homeOf(env);
  const base = Number(env.TALLY_PORT_BASE || 4000);
  const read = (file) =>
    readFile(join(home, file), 'utf8').then(
      (text) => text.trim(),
      () => undefined,
    );
  const stores = JSON.parse((await read('run/stores.json')) ?? '{}');
  const defaults = {
    TALLY_ADMIN_KEY: await read('admin-key'),
    TALLY_SERVICE_KEY: await read('service-key'),
    USAGE_INGEST_URL: `http://127.0.0.1:${base + 1}`,
    METRICS_ENGINE_URL: `http://127.0.0.1:${base + 2}`,
    ANALYTICS_API_URL: `http://127.0.0.1:${base + 3}`,
    ...stores,
  };
  const missing = Object.entries(defaults).filter(([name, value]) => value !== undefined && !env[name]);
  return { ...env, ...Object.fromEntries(missing) };
}
