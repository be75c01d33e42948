import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { AxeResults } from 'axe-core';
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
  type Request,
} from 'playwright-core';
import { expect } from 'vitest';
import { chromiumBinary } from '../../../infra/local/chromium.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const SHOTS = fileURLToPath(new URL('../.screenshots/', import.meta.url));

export const launch = (): Promise<Browser> =>
  chromium.launch({ executablePath: executable(), args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] });

function executable(): string {
  const program = chromiumBinary();
  return program.includes('/') ? program : findOnPath(program);
}

function findOnPath(program: string): string {
  for (const folder of (process.env.PATH ?? '').split(':')) {
    try {
      readFileSync(`${folder}/${program}`, { flag: 'r' });
      return `${folder}/${program}`;
    } catch {}
  }
  return program;
}

/** The time until something is on a page, on a slow machine. */
const WAIT_MS = 60_000;

/** A context without animations, which would only take time here. */
export const newContext = (browser: Browser, options: BrowserContextOptions = {}): Promise<BrowserContext> =>
  // The headless shell takes its language from the environment, where it may be none.
  browser.newContext({ viewport: { width: 1440, height: 900 }, locale: 'en-US', reducedMotion: 'reduce', ...options });

export type Visitor = { page: Page; problems: string[] };

/** The browser's own message about an error status, which tests cause on purpose. */
const EXPECTED = /Failed to load resource: the server responded with a status of (400|401|403|404|503)/;

const asked = new WeakMap<Page, Set<Request>>();

/** Opens a page and records errors on its console. */
export async function visit(context: BrowserContext): Promise<Visitor> {
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  const problems: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !EXPECTED.test(message.text())) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(String(error)));
  const waiting = new Set<Request>();
  asked.set(page, waiting);
  // A stream does not end.
  page.on('request', (request) => request.resourceType() !== 'eventsource' && waiting.add(request));
  page.on('requestfinished', (request) => waiting.delete(request));
  page.on('requestfailed', (request) => waiting.delete(request));
  return { page, problems };
}

const FRAMES = 'new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))';

/** Resolves once a page has no pending requests and no skeletons. */
export async function settle(page: Page): Promise<void> {
  const waiting = asked.get(page)!;
  const isQuiet = async () => {
    if (waiting.size > 0) return false;
    await page.evaluate(FRAMES);
    return (
      waiting.size === 0 &&
      page.evaluate<boolean>(`!!document.querySelector('h1') && !document.querySelector('.skeleton')`)
    );
  };
  await expect.poll(isQuiet).toBe(true);
}

/** Shows a page without loading the scripts again; resolves once it shows what it asked for. */
export async function go(page: Page, path: string): Promise<void> {
  await page.evaluate(`__TSR_ROUTER__.navigate({ href: ${JSON.stringify(path)} })`);
  await settle(page);
}

export async function signIn(page: Page, url: string, key: string): Promise<void> {
  await page.goto(`${url}/app/sign-in`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.waitForURL('**/app/overview');
}

/** Rows after the third are like those before them. */
const REPEATED = ['tbody tr:nth-child(n+4)', '.top-list li:nth-child(n+4)'];

/** Returns the serious and critical findings of axe, one line each. `known`: selectors that were checked before. */
export async function findings(page: Page, known: readonly string[] = []): Promise<string[]> {
  // Over the protocol, as developer tools do: the page's own policy lets no script in.
  await page.evaluate(`window.axe === undefined && (() => { ${AXE} })()`);
  // Every rule runs; only what passes is not described, which takes most of the time.
  const exclude = [...REPEATED, ...known].map((selector) => [selector]);
  const { violations } = await page.evaluate<AxeResults>(
    `axe.run(${JSON.stringify({ exclude })}, { resultTypes: ['violations'] })`,
  );
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .map(({ target }) => target.join(' '))
          .slice(0, 3)
          .join(', ')}`,
    );
}

/** Takes a screenshot of the whole page if `TALLY_SCREENSHOTS` is set: only people look at them, and each costs time. */
export async function screenshot(page: Page, name: string): Promise<void> {
  if (!process.env.TALLY_SCREENSHOTS) return;
  await mkdir(SHOTS, { recursive: true });
  await page.screenshot({ path: `${SHOTS}${name}.png`, fullPage: true });
}
