import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type { AxeResults } from 'axe-core';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
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

export type Visitor = { page: Page; problems: string[]; close(): Promise<void> };

/** The browser's own message about an error status, which tests cause on purpose. */
const EXPECTED = /Failed to load resource: the server responded with a status of (400|401|403|404|503)/;

/** A browser of one's own, with what its console said of errors. */
export async function visit(browser: Browser, options: BrowserContextOptions = {}): Promise<Visitor> {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  const problems: string[] = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !EXPECTED.test(message.text())) problems.push(message.text());
  });
  page.on('pageerror', (error) => problems.push(String(error)));
  return { page, problems, close: () => context.close() };
}

export async function signIn(page: Page, url: string, key: string): Promise<void> {
  await page.goto(`${url}/app/sign-in`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.waitForURL('**/app/overview');
}

/** Returns the serious and critical findings of axe, one line each. */
export async function findings(page: Page): Promise<string[]> {
  // Over the protocol, as developer tools do: the page's own policy lets no script in.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() =>
    (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run(),
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

export async function screenshot(page: Page, name: string): Promise<void> {
  await mkdir(SHOTS, { recursive: true });
  await page.screenshot({ path: `${SHOTS}${name}.png`, fullPage: true });
}
