import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const OUT = fileURLToPath(new URL('./dist/web', import.meta.url));
/** The largest first load, gzipped: everything the browser needs before it shows the overview. */
const MAX_FIRST_LOAD_BYTES = 350_000;
const COMPRESSED = new Set(['.css', '.html', '.js', '.svg', '.webmanifest']);

/** Lists the files of the first load: the entry, the overview, their imports, and the font. */
function firstLoad(bundle) {
  const outputs = Object.values(bundle);
  const files = new Set(['index.html', 'before.js']);
  const visit = (chunk) => {
    if (!chunk || files.has(chunk.fileName)) return;
    files.add(chunk.fileName);
    for (const css of chunk.viteMetadata?.importedCss ?? []) files.add(css);
    for (const name of chunk.imports) visit(bundle[name]);
  };
  visit(outputs.find(({ isEntry }) => isEntry));
  visit(outputs.find(({ facadeModuleId }) => facadeModuleId?.endsWith('/pages/overview.tsx')));
  for (const { fileName } of outputs) if (/inter-latin-wght/.test(fileName)) files.add(fileName);
  return [...files];
}

/** Writes a .br and a .gz beside every text file, and fails the build if the first load is too large. */
function finish() {
  return {
    name: 'tally-finish',
    apply: 'build',
    writeBundle(_options, bundle) {
      for (const entry of readdirSync(OUT, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !COMPRESSED.has(extname(entry.name))) continue;
        const file = join(entry.parentPath, entry.name);
        const text = readFileSync(file);
        writeFileSync(`${file}.gz`, gzipSync(text, { level: 9 }));
        writeFileSync(`${file}.br`, brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }));
      }
      const files = firstLoad(bundle);
      const bytes = files.reduce((sum, file) => sum + gzipSync(readFileSync(join(OUT, file))).length, 0);
      console.log(
        `console: first load ${Math.round(bytes / 1000)} kB gzipped (at most ${MAX_FIRST_LOAD_BYTES / 1000})`,
      );
      if (bytes > MAX_FIRST_LOAD_BYTES) throw new Error(`The first load has ${bytes} bytes: ${files.join(', ')}`);
    },
  };
}

const services = process.env.TALLY_URL ?? 'http://127.0.0.1:4000';

export default defineConfig({
  root: fileURLToPath(new URL('./src/web', import.meta.url)),
  plugins: [react(), finish()],
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: ['es2022', 'chrome123', 'firefox120', 'safari17.5'],
    // Small files as data: URLs would need a wider policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: { proxy: Object.fromEntries(['/trpc', '/session', '/export', '/readyz'].map((path) => [path, services])) },
});
