import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

// Bundles the handler and its imports into infra/lambda/dist/handler.mjs: the folder that the template uploads.
const at = (path) => fileURLToPath(new URL(path, import.meta.url));

await build({
  entryPoints: [at('../../apps/usage-ingest/dist/jobs/lambda.js')],
  outfile: process.argv[2] ?? at('dist/handler.mjs'),
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node22',
  logLevel: 'warning',
  // CommonJS packages load Node's modules by `require`.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
});
