import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ROOT } from './home.mjs';

const INSTALLED = join(ROOT, 'node_modules', '.tally-installed');
const BUILT = join(ROOT, 'node_modules', '.tally-built');
const BIN = join(ROOT, 'node_modules', '.bin');
const GROUPS = ['packages', 'apps'];

/** The environment in which the tools of node_modules find each other; nobody is called home. */
export const toolEnv = () => ({
  ...process.env,
  PATH: `${BIN}:${process.env.PATH}`,
  TURBO_TELEMETRY_DISABLED: '1',
  DO_NOT_TRACK: '1',
});

/** Installs the dependencies unless those of the lockfile are there already. */
export function ensureInstalled() {
  const wanted = fingerprint([
    'pnpm-lock.yaml',
    'pnpm-workspace.yaml',
    'package.json',
    ...workspaceFiles('package.json'),
  ]);
  if (existsSync(INSTALLED) && readFileSync(INSTALLED, 'utf8') === wanted) return;
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  run(
    'npx',
    ['-y', packageManager, 'install', '--frozen-lockfile', '--reporter=append-only', '--loglevel=warn'],
    process.env,
  );
  writeFileSync(INSTALLED, wanted);
}

/** Builds all workspaces unless no source changed since. */
export function ensureBuilt() {
  const wanted = createHash('sha256').update(sources().map(stampOf).join('\n')).digest('hex');
  const whole = workspaces().every(
    (folder) => !existsSync(join(folder, 'tsconfig.build.json')) || existsSync(join(folder, 'dist')),
  );
  if (whole && existsSync(BUILT) && readFileSync(BUILT, 'utf8') === wanted) return;
  run(join(BIN, 'turbo'), ['run', 'build', '--output-logs=errors-only'], toolEnv());
  writeFileSync(BUILT, wanted);
}

function run(command, args, env) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'], env });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed${error ? `: ${error.message}` : ''}`);
}

/** The folders of all workspaces. */
export function workspaces() {
  const grouped = GROUPS.flatMap((group) => readdirSync(join(ROOT, group)).map((name) => join(ROOT, group, name)));
  return [...grouped, join(ROOT, 'e2e')].filter((folder) => existsSync(join(folder, 'package.json')));
}

function workspaceFiles(name) {
  return workspaces()
    .map((folder) => join(folder, name))
    .filter(existsSync);
}

function sources() {
  const files = (folder) =>
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
  return [
    ...workspaces().flatMap((folder) => (existsSync(join(folder, 'src')) ? files(join(folder, 'src')) : [])),
    ...workspaceFiles('tsconfig.build.json'),
    join(ROOT, 'tsconfig.base.json'),
  ].sort();
}

const stampOf = (file) => `${file} ${statSync(file).mtimeMs} ${statSync(file).size}`;
const fingerprint = (files) =>
  createHash('sha256')
    .update(files.map((file) => readFileSync(file.startsWith('/') ? file : join(ROOT, file))).join('\n'))
    .digest('hex');

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  ensureInstalled();
  const { status } = spawnSync(join(BIN, 'pnpm'), process.argv.slice(2), {
    cwd: ROOT,
    stdio: 'inherit',
    env: toolEnv(),
  });
  process.exit(status ?? 1);
}
