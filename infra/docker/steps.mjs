import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** Environment variables passed from the machine to the steps; all others come from the Dockerfile. */
const PASSED = ['PATH', 'HOME', 'npm_config_registry', 'npm_config_store_dir', 'npm_config_cache'];

/**
 * Executes the FROM, WORKDIR, ENV, COPY and RUN instructions of a Dockerfile without a Docker engine: each stage is a
 * folder in `folder`, and base images are the programs of this machine. Returns the root of the last stage, its working
 * folder and its instructions. Throws if a step fails or has an unknown form.
 */
export async function runDockerfile({ file, context, folder }) {
  const ignored = await ignoredBy(join(context, '.dockerignore'));
  const stages = new Map();
  let stage;
  for (const { name, value } of instructionsOf(await readFile(file, 'utf8'))) {
    if (name === 'FROM') {
      const [base, , alias = 'last'] = value.split(/\s+/);
      const root = join(folder, alias);
      const parent = stages.get(base);
      await mkdir(root, { recursive: true });
      if (parent) await cp(parent.root, root, { recursive: true, verbatimSymlinks: true });
      stage = { root, workdir: parent?.workdir ?? '/', env: { ...parent?.env }, instructions: [] };
      stages.set(alias, stage);
    } else if (name === 'WORKDIR') {
      stage.workdir = value;
      await mkdir(join(stage.root, value), { recursive: true });
    } else if (name === 'ENV') {
      Object.assign(stage.env, Object.fromEntries(value.split(/\s+/).map((pair) => pair.split('='))));
    } else if (name === 'COPY') {
      await copy(value, { stage, stages, context, ignored });
    } else if (name === 'RUN') {
      await run(value, stage);
    }
    stage.instructions.push({ name, value });
  }
  return { root: stage.root, workdir: join(stage.root, stage.workdir), instructions: stage.instructions };
}

/** Returns the instructions of a Dockerfile in order, without comments and with continued lines joined. */
export function instructionsOf(text) {
  return text
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'))
    .join('\n')
    .replaceAll(/\\\n\s*/g, '')
    .split('\n')
    .map((line) => /^([A-Z]+)\s+(.*)$/.exec(line))
    .map((match) => ({ name: match[1], value: match[2].trim() }));
}

async function copy(value, { stage, stages, context, ignored }) {
  const [, from, paths] = /^(?:--from=(\S+)\s+)?(.*)$/.exec(value);
  const source = from ? stages.get(from).root : context;
  const names = paths.split(/\s+/);
  const into = names.pop();
  const target = join(stage.root, stage.workdir, into);
  for (const name of names) {
    const origin = join(source, name);
    const isWhole = names.length === 1 && !into.endsWith('/') && into !== './';
    await cp(origin, isWhole ? target : join(target, name.split('/').at(-1)), {
      recursive: true,
      verbatimSymlinks: true,
      filter: (path) => from !== undefined || !ignored(relative(context, path)),
    });
  }
}

async function run(command, { root, workdir, env }) {
  const passed = PASSED.filter((name) => process.env[name]).map((name) => [name, process.env[name]]);
  const child = spawn('/bin/sh', ['-c', command], {
    cwd: join(root, workdir),
    env: { ...Object.fromEntries(passed), ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output = (output + chunk).slice(-8_000);
    });
  }
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(`RUN ${command} failed (${code}):\n${output}`);
}

// Parses the patterns of .dockerignore: a path from the root, or a name anywhere (two stars and a slash before it).
async function ignoredBy(file) {
  const lines = (await readFile(file, 'utf8')).split('\n').filter((line) => line !== '');
  const anywhere = new Set(lines.filter((line) => line.startsWith('**/')).map((line) => line.slice(3)));
  const atRoot = new Set(lines.filter((line) => !line.startsWith('**/')));
  return (path) => atRoot.has(path) || path.split('/').some((name) => anywhere.has(name));
}
