import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isBuilt } from '../../packages/testkit/sources.mjs';
import { ROOT } from './home.mjs';
import { runProgram } from './processes.mjs';

const INSTALLED = join(ROOT, 'node_modules', '.tally-installed');
const BIN = join(ROOT, 'node_modules', '.bin');
const GROUPS = ['packages', 'apps'];

/** The environment in which the tools of node_modules find each other, without telemetry. */
export const toolEnv = () => ({
  ...process.env,
  PATH: `${BIN}:${process.env.PATH}`,
  TURBO_TELEMETRY_DISABLED: '1',
  DO_NOT_TRACK: '1',
});

/** Installs the dependencies of the lockfile unless they are installed. Aborting `signal` ends it. */
export async function ensureInstalled({ signal } = {}) {
  const wanted = fingerprint([
    'pnpm-lock.yaml',
    'pnpm-workspace.yaml',
    'package.json',
    ...workspaceFiles('package.json'),
  ]);
  if (existsSync(INSTALLED) && readFileSync(INSTALLED, 'utf8') === wanted) return;
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  // The field may contain a hash, which npx does not accept.
  const [exact] = packageManager.split('+');
  const install = ['install', '--frozen-lockfile', '--reporter=append-only', '--loglevel=warn'];
  // An outer npx, as in `npm run matrix`, leaves its own `--package` in the environment; ours wins over it.
  await run('npx', ['-y', '--package', exact, '--', 'pnpm', ...install], process.env, signal);
  writeFileSync(INSTALLED, wanted);
}

/** Builds all workspaces unless each is built from its present sources. Aborting `signal` ends it. */
export async function ensureBuilt({ signal } = {}) {
  const built = workspaces().filter((folder) => existsSync(join(folder, 'tsconfig.build.json')));
  if (built.every((folder) => isBuilt(folder) && existsSync(join(folder, 'dist')))) return;
  await run(join(BIN, 'turbo'), ['run', 'build', '--output-logs=errors-only'], toolEnv(), signal);
}

async function run(command, args, env, signal = new AbortController().signal) {
  const code = await runProgram(command, args, { cwd: ROOT, env, signal });
  signal.throwIfAborted();
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
}

/** Returns the folders of all workspaces. */
export function workspaces() {
  const grouped = GROUPS.flatMap((group) => readdirSync(join(ROOT, group)).map((name) => join(ROOT, group, name)));
  return [...grouped, join(ROOT, 'e2e')].filter((folder) => existsSync(join(folder, 'package.json')));
}

function workspaceFiles(name) {
  return workspaces()
    .map((folder) => join(folder, name))
    .filter(existsSync);
}

const fingerprint = (files) =>
  createHash('sha256')
    .update(`${process.platform}-${process.arch}\n`)
    .update(files.map((file) => readFileSync(resolve(ROOT, file))).join('\n'))
    .digest('hex');

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await ensureInstalled();
    // `pnpm exec` puts a relative ./node_modules/.bin on PATH, where turbo then looks for pnpm from each workspace.
    const [command, ...args] = process.argv[2] === 'exec' ? process.argv.slice(3) : ['pnpm', ...process.argv.slice(2)];
    process.exit(await runProgram(command, args, { cwd: ROOT, env: toolEnv() }));
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}
