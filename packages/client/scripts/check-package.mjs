// Checks the package that would be published (after a build): publint, are-the-types-wrong, and the size of each entry
// point.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const { packageManager } = JSON.parse(readFileSync(join(root, '../../package.json'), 'utf8'));
const directory = mkdtempSync(join(tmpdir(), 'tally-pack-'));

try {
  execFileSync('npx', ['-y', packageManager, 'pack', '--pack-destination', directory], { cwd: root, stdio: 'ignore' });
  const tarball = join(
    directory,
    readdirSync(directory).find((name) => name.endsWith('.tgz')),
  );
  const bytes = readFileSync(tarball);
  const { messages, pkg } = await publint({ pack: { tarball: new Uint8Array(bytes).buffer }, strict: true });
  for (const message of messages) console.log(formatMessage(message, pkg));
  if (messages.length > 0) process.exitCode = 1;
  else console.log('publint: clean');

  const attw = join(dirname(require.resolve('@arethetypeswrong/cli/package.json')), 'dist/index.js');
  execFileSync(process.execPath, [attw, tarball, '--profile', 'esm-only', '--format', 'ascii'], { stdio: 'inherit' });

  for (const [entry, { default: path }] of Object.entries(manifest.publishConfig.exports)) {
    const { outputFiles } = await build({
      entryPoints: [join(root, path)],
      bundle: true,
      minify: true,
      write: false,
      format: 'esm',
      platform: 'node',
      // The price list is data, with a limit of its own.
      external: ['@pydantic/genai-prices'],
    });
    const { contents } = outputFiles[0];
    const sizes = [contents.length, gzipSync(contents).length].map((size) => `${(size / 1024).toFixed(1)} KiB`);
    console.log(`${entry}: ${sizes[0]} minified, ${sizes[1]} gzipped`);
  }
} finally {
  rmSync(directory, { recursive: true });
}
