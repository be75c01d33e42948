import { readdir, readFile } from 'node:fs/promises';
import { extname, join, relative, sep } from 'node:path';
import { acceptsEncoding } from '@tally/service';

export type Page = { status: number; headers: Record<string, string>; body: Buffer };

/** The built web page, held in memory: a few hundred kilobytes. */
export type Pages = {
  /** Returns the answer to a path, compressed if `acceptEncoding` allows it; undefined if there is none. */
  find(path: string, acceptEncoding: string | undefined): Page | undefined;
};

const TYPES: Readonly<Record<string, string>> = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.webmanifest': 'application/manifest+json',
  '.woff2': 'font/woff2',
};

/** In order of preference. */
const ENCODINGS = [
  { name: 'br', suffix: '.br' },
  { name: 'gzip', suffix: '.gz' },
] as const;

/** File names in this folder contain a hash of their content. */
const IMMUTABLE = '/assets/';

/** Forbids foreign and inline content, and frames. */
const CSP = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "font-src 'self'",
  "connect-src 'self'",
  "manifest-src 'self'",
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS = {
  'x-content-type-options': 'nosniff',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  // Addresses contain names of merchants and users.
  'referrer-policy': 'no-referrer',
};

const DOCUMENT_HEADERS = {
  'content-security-policy': CSP,
  'permissions-policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
  'x-frame-options': 'DENY',
};

/** Reads a built page from its folder. */
export async function readPages(folder: string): Promise<Pages> {
  const files = new Map<string, Buffer>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = join(entry.parentPath, entry.name);
    files.set(`/${relative(folder, file).split(sep).join('/')}`, await readFile(file));
  }
  if (!files.has('/index.html')) throw new Error(`There is no page in ${folder}: run the build first.`);

  return {
    find(path, acceptEncoding) {
      const name = isView(path) ? '/index.html' : path;
      const plain = files.get(name);
      const type = TYPES[extname(name)];
      if (!plain || !type) return undefined;
      const encoding = ENCODINGS.find(
        (each) => files.has(name + each.suffix) && acceptsEncoding(acceptEncoding, each.name),
      );
      const body = encoding ? files.get(name + encoding.suffix)! : plain;
      const isHashed = name.startsWith(IMMUTABLE);
      return {
        status: 200,
        headers: {
          ...HEADERS,
          ...(name === '/index.html' ? DOCUMENT_HEADERS : {}),
          'content-type': type,
          'content-length': String(body.length),
          'cache-control': isHashed ? 'public, max-age=31536000, immutable' : 'no-cache',
          vary: 'accept-encoding',
          ...(encoding ? { 'content-encoding': encoding.name } : {}),
        },
        body,
      };
    },
  };
}

/** Returns whether a path belongs to the page's own router. */
const isView = (path: string) => path === '/' || path === '/docs' || path === '/app' || path.startsWith('/app/');
