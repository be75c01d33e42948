import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assertBuilt } from '@tally/testkit';
import { expect, onTestFinished, test } from 'vitest';

const STAMP = fileURLToPath(new URL('../../packages/testkit/stamp.mjs', import.meta.url));

test('a build of older sources is refused, also of a package that is used', () => {
  const root = mkdtempSync(join(tmpdir(), 'tally-built-'));
  onTestFinished(() => rmSync(root, { recursive: true }));
  const write = (file: string, text: string) => writeFileSync(join(root, file), text);
  const build = (folder: string) => execFileSync(process.execPath, [STAMP], { cwd: join(root, folder) });
  const check = (name: string) => {
    for (const folder of ['packages/low', `apps/${name}`]) {
      mkdirSync(join(root, folder, 'src'), { recursive: true });
      write(`${folder}/src/index.ts`, 'export {};');
    }
    write('packages/low/package.json', '{}');
    write(`apps/${name}/package.json`, '{"dependencies":{"@tally/low":"workspace:*"}}');
    return () => assertBuilt(`apps/${name}`, root);
  };

  const unbuilt = check('unbuilt');
  expect(unbuilt).toThrow('apps/unbuilt is not built from its present sources: run `npm run build`.');
  build('packages/low');
  build('apps/unbuilt');
  expect(unbuilt).not.toThrow();

  const stale = check('stale');
  build('apps/stale');
  write('apps/stale/src/index.test.ts', 'tests are no sources');
  expect(stale).not.toThrow();

  const older = check('older');
  build('apps/older');
  write('apps/older/src/index.ts', 'export const changed = true;');
  expect(older).toThrow('apps/older is not built');
});

test('the services that tests run are built from their present sources', () => {
  for (const name of ['usage-ingest', 'metrics-engine', 'analytics-api', 'console']) assertBuilt(`apps/${name}`);
});
