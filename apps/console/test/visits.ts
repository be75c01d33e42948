import { fileURLToPath } from 'node:url';
import { addDays, dayOf } from '@tally/contracts';
import {
  type AnalyticsClient,
  createAnalyticsClient,
  createEngineClient,
  createIngestClient,
  type EngineClient,
  type IngestClient,
} from '@tally/contracts/client';
import { assertBuilt } from '@tally/testkit';
import type { BrowserContext, BrowserContextOptions, Page } from 'playwright-core';
import { expect } from 'vitest';
import { parseFormatted } from '../src/web/quantity.ts';
import { launch, newContext, settle, signIn, visit } from './browser.ts';
import { ADMIN_KEY, type Stack, startStack } from './start.ts';

/** Services, a browser and the events of a demo, on a machine that does much else. */
export const SETUP_MS = 300_000;
/** Days of the demo: the explorer shows the last 30, and explanations go back as far. */
const DEMO_DAYS = 30;
const BATCH = 1_000;

export const today = dayOf(Date.now());
export const yesterday = addDays(today, -1);
export const week = { startDate: addDays(today, -6), endDate: today };
export const month = { startDate: `${today.slice(0, 8)}01`, endDate: today };

const ROLES = ['producer', 'member', 'viewer', 'analyst', 'admin', 'bound'] as const;

export type Visits = {
  stack: Stack;
  ingest: IngestClient;
  analytics: AnalyticsClient;
  engine: EngineClient;
  /** A key of each role; `bound` reads only what the merchant `acme` used. */
  keys: Record<(typeof ROLES)[number], string>;
  /** Runs a test in a page of its own, signed in with a key; its console must stay clean. */
  as(key: string, run: (page: Page) => Promise<void>, options?: BrowserContextOptions): Promise<void>;
  /** Runs a test as a visitor who is not signed in. */
  asVisitor(run: (page: Page) => Promise<void>): Promise<void>;
  /** Loads a page, and resolves once it shows what it asked for. */
  open(page: Page, path: string): Promise<void>;
  stop(): Promise<void>;
};

/** All services with a built page, one browser, and a key of each role. With `demo` there is usage of 30 days. */
export async function startVisits({
  demo = false,
  settings = {},
}: {
  demo?: boolean;
  /** Settings of the services. */
  settings?: Record<string, string>;
} = {}): Promise<Visits> {
  assertBuilt('apps/console');
  const webFolder = fileURLToPath(new URL('../dist/web', import.meta.url));
  const [stack, browser] = await Promise.all([startStack({ webFolder, services: settings }), launch()]);
  const client = { url: stack.url, key: ADMIN_KEY };
  const ingest = createIngestClient(client);
  const analytics = createAnalyticsClient(client);
  const made = await Promise.all(
    ROLES.map((role) =>
      ingest.keys.create.mutate(
        role === 'bound' ? { name: 'acme portal', role: 'viewer', merchantId: 'acme' } : { name: `the ${role}`, role },
      ),
    ),
  );
  if (demo) await recordDemo(ingest, analytics);

  const signedIn = new Map<string, Promise<BrowserContext>>();
  /** A context that is signed in with a key, once for all tests: signing in and loading the scripts takes a second. */
  function contextOf(key: string, options: BrowserContextOptions): Promise<BrowserContext> {
    const name = JSON.stringify([key, options]);
    const create = async () => {
      const context = await newContext(browser, options);
      const { page } = await visit(context);
      await signIn(page, stack.url, key);
      await page.close();
      return context;
    };
    const known = signedIn.get(name) ?? create();
    signedIn.set(name, known);
    return known;
  }

  return {
    stack,
    ingest,
    analytics,
    engine: createEngineClient(client),
    keys: Object.fromEntries(ROLES.map((role, index) => [role, made[index]!.key])) as Visits['keys'],
    async as(key, run, options = {}) {
      const { page, problems } = await visit(await contextOf(key, options));
      try {
        await run(page);
        expect(problems).toEqual([]);
      } finally {
        await page.close();
      }
    },
    async asVisitor(run) {
      const context = await newContext(browser);
      const { page, problems } = await visit(context);
      try {
        await run(page);
        expect(problems).toEqual([]);
      } finally {
        await context.close();
      }
    },
    async open(page, path) {
      await page.goto(stack.url + path);
      await settle(page);
    },
    async stop() {
      await browser.close();
      await stack.stop();
    },
  };
}

/** Records what `npm run demo` does, of fewer days, and 60 visitors of today. */
async function recordDemo(ingest: IngestClient, analytics: AnalyticsClient): Promise<void> {
  const traffic = new URL('../../usage-ingest/dist/demo/traffic.js', import.meta.url).href;
  const { demoDirectory, demoTraffic } = await import(traffic);
  await analytics.directory.upsert.mutate({ entries: [...demoDirectory] });
  const entries = [...demoTraffic(addDays(today, -DEMO_DAYS), yesterday)];
  for (let from = 0; from < entries.length; from += BATCH)
    await ingest.usage.record.mutate({ entries: entries.slice(from, from + BATCH), backfill: true });
  await ingest.usage.record.mutate({
    entries: Array.from({ length: 60 }, (_, index) => ({
      id: `today-${index}`,
      merchantId: 'acme',
      userId: `visitor-${index}`,
      model: 'gpt-4o',
      metrics: { prompt_tokens: '10', cost: '0.000000001' },
    })),
  });
}

/** The address of the explanation of a number. */
export function explainLink(search: Record<string, string | string[]>): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(search))
    query.set(name, typeof value === 'string' ? value : JSON.stringify(value));
  return `/app/explain?${query}`;
}

/** The number that a part of a page shows, as the API writes it. */
export const numberIn = async (page: Page, selector: string): Promise<string> =>
  parseFormatted(await page.locator(selector).first().innerText());
