import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

const OUT = fileURLToPath(new URL('./dist/web', import.meta.url));
/** What the browser must load before it can show the first page, gzipped. */
const MAX_FIRST_LOAD_BYTES = 350_000;
const COMPRESSED = new Set(['.css', '.html', '.js', '.svg', '.webmanifest']);

/** Writes a .br and a .gz beside every text file, and fails the build when the first load is too large. */
function finish() {
  return {
    name: 'tally-finish',
    apply: 'build',
    closeBundle() {
      for (const entry of readdirSync(OUT, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !COMPRESSED.has(extname(entry.name))) continue;
        const file = join(entry.parentPath, entry.name);
        const text = readFileSync(file);
        writeFileSync(`${file}.gz`, gzipSync(text, { level: 9 }));
        writeFileSync(`${file}.br`, brotliCompressSync(text, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }));
      }
      const html = readFileSync(join(OUT, 'index.html'), 'utf8');
      const files = ['/index.html', ...[...html.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map(([, path]) => path)];
      const bytes = files.map((path) => gzipSync(readFileSync(join(OUT, path))).length).reduce((a, b) => a + b, 0);
      console.log(
        `console: first load ${(bytes / 1000).toFixed(0)} kB gzipped (at most ${MAX_FIRST_LOAD_BYTES / 1000})`,
      );
      if (bytes > MAX_FIRST_LOAD_BYTES) throw new Error(`The first load has ${bytes} bytes: ${files.join(', ')}`);
    },
  };
}

export default defineConfig({
  root: fileURLToPath(new URL('./src/web', import.meta.url)),
  plugins: [react(), finish()],
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: 'es2022',
    // Small files as data: URLs would need a wider policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: Object.fromEntries(
      ['/trpc', '/session', '/export', '/readyz'].map((path) => [
        path,
        process.env.TALLY_URL ?? 'http://127.0.0.1:4000',
      ]),
    ),
  },
});
