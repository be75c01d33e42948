import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { addDays, dayOf, type Grouping } from '@tally/contracts';
import {
  type AnalyticsClient,
  createAnalyticsClient,
  createEngineClient,
  createIngestClient,
  type EngineClient,
  type IngestClient,
} from '@tally/contracts/client';
import { assertBuilt } from '@tally/testkit';
import type { Browser, BrowserContext, BrowserContextOptions, Locator, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { add, change, format, parseFormatted, subtract } from '../src/web/quantity.ts';
import { findings, launch, newContext, screenshot, settle, signIn, visit } from './browser.ts';
import { ADMIN_KEY, type Stack, startStack } from './start.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const today = dayOf(Date.now());
const yesterday = addDays(today, -1);
const week = { startDate: addDays(today, -6), endDate: today };
const month = { startDate: `${today.slice(0, 8)}01`, endDate: today };

let stack: Stack;
let browser: Browser;
let ingest: IngestClient;
let analytics: AnalyticsClient;
let engine: EngineClient;
const keys: Record<string, string> = {};

beforeAll(async () => {
  assertBuilt('apps/console');
  [stack, browser] = await Promise.all([
    startStack({ webFolder: fileURLToPath(new URL('../dist/web', import.meta.url)) }),
    launch(),
  ]);
  const client = { url: stack.url, key: ADMIN_KEY };
  ingest = createIngestClient(client);
  analytics = createAnalyticsClient(client);
  engine = createEngineClient(client);
  for (const role of ['producer', 'member', 'viewer', 'analyst', 'admin'] as const)
    keys[role] = (await ingest.keys.create.mutate({ name: `the ${role}`, role })).key;
  keys.bound = (await ingest.keys.create.mutate({ name: 'acme portal', role: 'viewer', merchantId: 'acme' })).key;
  const env = { ...process.env, TALLY_ADMIN_KEY: ADMIN_KEY, USAGE_INGEST_URL: stack.url, ANALYTICS_API_URL: stack.url };
  await promisify(execFile)(process.execPath, [`${ROOT}/apps/usage-ingest/dist/demo/main.js`], { env });
  await ingest.usage.record.mutate({
    entries: Array.from({ length: 60 }, (_, index) => ({
      id: `today-${index}`,
      merchantId: 'acme',
      userId: `visitor-${index}`,
      model: 'gpt-4o',
      metrics: { prompt_tokens: '10', cost: '0.000000001' },
    })),
  });
});
afterAll(async () => {
  await browser?.close();
  await stack?.stop();
});

const signedIn = new Map<string, Promise<BrowserContext>>();

/** A context signed in with a key, once for all tests: signing in and loading the scripts takes a second. */
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

/** Runs a test in a page of its own, signed in with a key; its console must stay clean. */
async function as(key: string, run: (page: Page) => Promise<void>, options: BrowserContextOptions = {}) {
  const { page, problems } = await visit(await contextOf(key, options));
  try {
    await run(page);
    expect(problems).toEqual([]);
  } finally {
    await page.close();
  }
}

/** Runs a test as a visitor who is not signed in. */
async function asVisitor(run: (page: Page) => Promise<void>) {
  const context = await newContext(browser);
  const { page, problems } = await visit(context);
  try {
    await run(page);
    expect(problems).toEqual([]);
  } finally {
    await context.close();
  }
}

const open = async (page: Page, path: string) => {
  await page.goto(stack.url + path);
  await settle(page);
};
const explainLink = (search: Record<string, string | string[]>) => {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(search))
    query.set(name, typeof value === 'string' ? value : JSON.stringify(value));
  return `/app/explain?${query}`;
};
/** Returns the number in a part of a page, in the API's form. */
const numberIn = async (page: Page, selector: string) =>
  parseFormatted(await page.locator(selector).first().innerText());

describe('signing in', () => {
  test('says what is wrong with a key, and lets nobody in who may not read', async () => {
    await asVisitor(async (page) => {
      await page.goto(`${stack.url}/`);
      await page.waitForURL('**/app/sign-in**');
      for (const [key, says] of [
        ['tally_viewer_nobody', 'unknown, expired or revoked'],
        [keys.producer!, 'may not read usage'],
      ] as const) {
        await page.getByLabel('API key').fill(key);
        await page.getByRole('button', { name: 'Sign in' }).click();
        await expect.poll(() => page.getByRole('alert').innerText()).toContain(says);
      }
    });
  });

  test('keeps the key nowhere in the browser', async () => {
    await asVisitor(async (page) => {
      await signIn(page, stack.url, keys.viewer!);
      const kept = await page.evaluate<string>(
        'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])',
      );
      expect(kept).not.toContain(keys.viewer);
      const cookies = await page.context().cookies();
      expect(cookies).toMatchObject([{ name: 'tally_session', httpOnly: true, sameSite: 'Strict' }]);
      expect(cookies[0]!.value).not.toContain(keys.viewer);
    });
  });

  test.each([
    ['member', ['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Budgets', 'Directory', 'Jobs', 'Health']],
    ['viewer', ['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Budgets', 'Directory', 'Jobs', 'Health']],
    ['analyst', ['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Budgets', 'Directory', 'Jobs', 'Health']],
    [
      'admin',
      [
        ...['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Prices', 'Budgets', 'Alerts', 'Webhooks'],
        ...['API keys', 'Directory', 'Sources', 'Data sources', 'Jobs', 'Health', 'Audit log'],
      ],
    ],
    ['bound', ['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Budgets', 'Directory', 'Health']],
  ])('shows a key of the role %s what is for it', async (role, pages) => {
    await as(keys[role]!, async (page) => {
      await open(page, '/app/custom-metrics');
      const links = page.getByRole('navigation', { name: 'Pages' }).getByRole('link');
      expect(await links.allInnerTexts()).toEqual(pages);
      expect((await page.getByRole('button', { name: 'New metric' }).count()) > 0).toBe(
        ['analyst', 'admin'].includes(role),
      );
    });
  });

  test('leads back to the page that was asked for, and out again', async () => {
    await asVisitor(async (page) => {
      await page.goto(`${stack.url}/app/explorer?by=user`);
      await page.waitForURL('**/app/sign-in**');
      await page.getByLabel('API key').fill(keys.viewer!);
      await page.keyboard.press('Enter');
      await page.waitForURL('**/app/explorer?by=user');
      await page.getByRole('button', { name: 'Sign out' }).click();
      await page.waitForURL('**/app/sign-in');
      expect(await page.context().cookies()).toEqual([]);
    });
  });

  test('ends with the key', async () => {
    const { id, key } = await ingest.keys.create.mutate({ name: 'leaver', role: 'viewer' });
    await asVisitor(async (page) => {
      await signIn(page, stack.url, key);
      await ingest.keys.revoke.mutate({ id });
      await expect.poll(async () => (await page.request.get(`${stack.url}/trpc/sessions.current`)).status()).toBe(401);
      await page.goto(`${stack.url}/app/explorer`);
      await page.waitForURL('**/app/sign-in**');
    });
  });
});

describe('numbers on screen', () => {
  test('are those of the API, to the last digit', async () => {
    const { totals, activeUsers } = await analytics.analytics.summary.query(month);
    await as(keys.viewer!, async (page) => {
      await open(page, '/app/overview');
      const shown = await page.locator('.stats .stat-value').allInnerTexts();
      expect(shown.map(parseFormatted)).toEqual([
        totals.cost,
        totals.requests,
        totals.totalTokens,
        totals.failedRequests,
        String(activeUsers),
      ]);
    });
  });

  test('lead down to the events that make them', async () => {
    const { rows } = await analytics.analytics.breakdown.query({
      startDate: yesterday,
      endDate: yesterday,
      by: 'merchant',
    });
    const globex = rows.find(({ key }) => key === 'globex')!;
    const explained = await ingest.usage.explain.query({
      merchantId: 'globex',
      date: yesterday,
      metricType: 'cost',
      limit: 1,
    });
    await as(keys.admin!, async (page) => {
      await open(page, explainLink({ metric: 'cost', from: addDays(yesterday, -6), to: yesterday }));
      await page.getByRole('row', { name: 'globex' }).getByRole('link').click();
      await page.waitForURL('**globex**');
      await page.getByRole('table').getByRole('row').nth(1).getByRole('link').click();
      await page.waitForSelector('text=All stored forms agree');
      expect(await numberIn(page, '.term[data-result] .value')).toBe(globex.cost);
      expect(explained.value).toBe(globex.cost);
      await page.getByLabel('Search events by id').fill(explained.entries[0]!.id);
      await page.getByRole('button', { name: explained.entries[0]!.id, exact: true }).click();
      const event = page.getByRole('dialog');
      expect(await event.innerText()).toContain(explained.entries[0]!.userId);
    });
  });

  test('are corrected beside their events, with a reason', async () => {
    await as(keys.admin!, async (page) => {
      await open(page, explainLink({ metric: 'cost', from: yesterday, to: yesterday, merchants: ['initech'] }));
      const before = await numberIn(page, '.term[data-result] .value');
      await page.getByRole('button', { name: 'Adjust' }).click();
      await page.getByLabel('Amount').fill('-0.000000001');
      await page.getByLabel('Reason').fill('credit note 17');
      await page.getByRole('dialog').getByRole('button', { name: 'Adjust' }).click();
      await page.waitForSelector('td:has-text("credit note 17")');
      const explained = await ingest.usage.explain.query({
        merchantId: 'initech',
        date: yesterday,
        metricType: 'cost',
      });
      await expect.poll(() => numberIn(page, '.term[data-result] .value')).toBe(explained.value);
      expect(explained.value).not.toBe(before);
    });
  });
});

test('an event is voided from its explanation, with a reason that the audit log keeps', async () => {
  const merchantId = 'to be voided';
  await ingest.usage.record.mutate({
    entries: ['kept', 'wrong'].map((id) => ({
      id,
      merchantId,
      time: `${yesterday}T12:00:00Z`,
      metrics: { cost: '0.25' },
    })),
  });
  const address = explainLink({ metric: 'cost', from: yesterday, to: yesterday, merchants: [merchantId] });
  await as(keys.viewer!, async (page) => {
    await open(page, address);
    await page.getByRole('button', { name: 'wrong', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Close' }).waitFor();
    expect(await page.getByRole('button', { name: 'Void' }).count()).toBe(0);
  });
  await as(keys.admin!, async (page) => {
    await open(page, address);
    await page.getByRole('button', { name: 'wrong', exact: true }).click();
    await page.getByRole('button', { name: 'Void' }).click();
    await page.getByLabel('Reason').fill('a test call');
    await page.getByRole('button', { name: 'Void the event' }).click();
    await expect.poll(() => numberIn(page, '.term[data-result] .value')).toBe('0.25');
    await page.waitForSelector('tr:has-text("wrong"):has-text("voided")');
    await open(page, '/app/audit?action=usage.void');
    await page.getByRole('button', { name: 'Details of usage.void' }).click();
    await page.waitForSelector('[role=dialog] pre:has-text("a test call")');
  });
});

test('formulas are completed as they are typed', async () => {
  await as(keys.analyst!, async (page) => {
    await open(page, '/app/custom-metrics');
    await page.getByRole('button', { name: 'New metric' }).first().click();
    const formula = page.getByLabel('Formula');
    await formula.pressSequentially('sum');
    await page.getByRole('option', { name: 'SUM()' }).waitFor();
    await page.keyboard.press('Tab');
    await expect.poll(() => formula.inputValue()).toBe('SUM()');
    await formula.pressSequentially('completion');
    await page.getByRole('option', { name: 'completion_tokens' }).waitFor();
    await page.keyboard.press('Enter');
    await expect.poll(() => formula.inputValue()).toBe('SUM(completion_tokens)');
    await formula.pressSequentially(' / CO');
    await page.getByRole('option').first().waitFor();
    await page.keyboard.press('Escape');
    await expect.poll(() => page.getByRole('option').count()).toBe(0);
    expect(await page.getByRole('dialog').count()).toBe(1);
  });
});

test('a meter is created, and counts the events that are kept, by its dimensions', async () => {
  await as(keys.admin!, async (page) => {
    await open(page, '/app/meters');
    await page.getByRole('button', { name: 'New meter' }).first().click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Key').fill('pages');
    await dialog.getByLabel('Name').fill('Pages read');
    await dialog.getByLabel('Metric type').fill('pages');
    await dialog.getByLabel('Dimensions').fill('model');
    await dialog.getByRole('button', { name: 'Create the meter' }).click();
    await dialog.waitFor({ state: 'hidden' });
    const answer = async () =>
      (await analytics.analytics.meter.query({ meter: 'pages', ...week, window: 'total' })).rows[0]?.value;
    await expect.poll(answer).toBeTruthy();
    await expect
      .poll(async () => {
        await open(page, `/app/meters?key=pages&by=model&from=${week.startDate}&to=${today}`);
        return numberIn(page, '.meter-total');
      })
      .toBe(await answer());
    const { rows } = await analytics.analytics.meter.query({
      meter: 'pages',
      ...week,
      window: 'total',
      groupBy: ['model'],
    });
    const shown = page.getByRole('group', { name: 'Pages read by model' }).locator('tbody td');
    expect((await shown.allInnerTexts()).map(parseFormatted).sort()).toEqual(rows.map(({ value }) => value).sort());
    await page.getByRole('button', { name: 'Remove Pages read' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.waitForSelector('text=No meters of your own yet');
  });
});

test('a budget is made, shows what is spent of it, and its limit is changed', async () => {
  await as(keys.admin!, async (page) => {
    await open(page, '/app/budgets');
    await page.getByRole('button', { name: 'New budget' }).first().click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Name').fill('Acme, monthly');
    await dialog.getByLabel('Limit').fill('2.5');
    await dialog.getByLabel('Merchant').fill('acme');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'hidden' });
    const row = page.getByRole('group', { name: 'Budgets' }).getByRole('row', { name: 'Acme, monthly' });
    const { totals } = await analytics.analytics.breakdown.query({ ...month, by: 'merchant', merchantIds: ['acme'] });
    await expect
      .poll(async () => {
        await open(page, '/app/budgets');
        return parseFormatted(await row.locator('td').first().locator('.num').first().innerText());
      })
      .toBe(totals.cost);
    await page.getByRole('button', { name: 'Change Acme, monthly' }).click();
    await dialog.getByLabel('Limit').fill('1000');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'hidden' });
    await expect.poll(async () => parseFormatted(await row.locator('td').nth(1).innerText())).toBe('1000');
    expect(await row.locator('td').nth(2).innerText()).toBe(format(subtract('1000', totals.cost), 'money'));
    await page.getByRole('button', { name: 'Remove Acme, monthly' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.waitForSelector('text=No budgets yet');
  });
});

test('shows the counts of a source, and its rejections with reasons', async () => {
  const answer = await fetch(`${stack.url}/sources/litellm/logs`, {
    method: 'POST',
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify([{ id: 'call-1', call_type: 'acompletion', startTime: 'no time', spend: 0.5 }]),
  });
  expect(answer.status).toBeLessThan(500);
  await as(keys.admin!, async (page) => {
    const rejected = page.getByRole('group', { name: 'Rejections' }).locator('tbody tr');
    await expect
      .poll(async () => {
        await open(page, '/app/sources');
        return rejected.count();
      })
      .toBe(1);
    const { rows } = await ingest.sources.rejections.query({});
    expect(await rejected.innerText()).toContain(rows[0]!.message);
    const sent = page.getByRole('group', { name: 'Sources' }).getByRole('row', { name: 'LiteLLM' });
    expect((await sent.locator('td').allInnerTexts()).slice(0, 4)).toEqual(['1', '0', '0', '1']);
  });
});

test('usage without a price is listed, and priced once a price is set', async () => {
  const record = (id: string) =>
    ingest.usage.record.mutate({
      entries: [
        { id, merchantId: 'acme', userId: 'visitor-0', model: 'house-model', metrics: { prompt_tokens: '1000' } },
      ],
    });
  await ingest.prices.set.mutate({ model: 'other', component: 'input', amount: '1', validFrom: `${today}T00:00:00Z` });
  await record('unpriced');
  await as(keys.admin!, async (page) => {
    await expect
      .poll(async () => {
        await open(page, '/app/prices');
        return page
          .getByRole('group', { name: 'Usage without a price' })
          .getByRole('row', { name: 'house-model' })
          .count();
      })
      .toBe(1);
    await page.getByRole('row', { name: 'house-model' }).getByRole('button', { name: 'Set a price' }).click();
    const dialog = page.getByRole('dialog');
    expect(await dialog.getByLabel('Model').inputValue()).toBe('house-model');
    await dialog.getByLabel('Amount in USD').fill('2.50');
    await dialog.getByRole('button', { name: 'Set the price' }).click();
    await dialog.waitFor({ state: 'hidden' });
    const price = page.getByRole('group', { name: 'Prices' }).getByRole('row', { name: 'house-model' });
    expect(await price.innerText()).toMatch(/\$2\.50\s+per 1,000,000/);
    let calls = 0;
    await expect
      .poll(async () => {
        await record(`priced-${calls++}`);
        const { rows } = await ingest.usage.recent.query({ merchantId: 'acme', limit: 1 });
        return rows[0]!.metrics.cost;
      })
      .toBe('0.0025');
  });
});

test('a webhook gets what an alert fires, shows its secret once, and is sent again', async () => {
  const heard: string[] = [];
  const receiver = createServer((request, response) => {
    heard.push(String(request.headers['webhook-id']));
    request.resume().on('end', () => response.writeHead(heard.length === 1 ? 410 : 204).end());
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/hook`;
  try {
    await as(keys.admin!, async (page) => {
      // A toast is a dialog as well.
      const dialog = page.locator('.dialog');
      await open(page, '/app/webhooks');
      await page.getByRole('button', { name: 'New webhook' }).first().click();
      await dialog.getByLabel('URL').fill(url);
      await dialog.getByLabel('An alert fires').check();
      await dialog.getByRole('button', { name: 'Save' }).click();
      const first = await dialog.locator('code').innerText();
      expect(first).toMatch(/^whsec_/);
      await page.getByRole('button', { name: 'I have copied it' }).click();
      expect(await page.locator('body').innerText()).not.toContain(first);

      await page.getByRole('button', { name: `Actions for ${url}` }).click();
      await page.getByRole('menuitem', { name: 'New secret' }).click();
      await dialog.getByRole('button', { name: 'Make it' }).click();
      await expect.poll(() => dialog.locator('code').innerText()).not.toBe(first);
      await page.getByRole('button', { name: 'I have copied it' }).click();
      await page.waitForSelector('tr:has-text("signed with the old secret, too")');

      await open(page, '/app/alerts');
      await page.getByRole('button', { name: 'New alert' }).first().click();
      await dialog.getByLabel('Name').fill('Nobody is silent');
      await dialog.getByRole('combobox', { name: 'Kind' }).click();
      await page.getByRole('option', { name: 'silence of a merchant' }).click();
      await dialog.getByLabel('Merchant').fill('nobody');
      await dialog.getByLabel('Minutes without an event').fill('30');
      await dialog.getByRole('button', { name: 'Save' }).click();
      await dialog.waitFor({ state: 'hidden' });
      const [rule] = (await engine.alerts.list.query()).rows;
      expect(rule).toMatchObject({ on: 'silence', target: 'nobody', condition: { minutes: 30 }, webhookIds: [] });
      await page.getByRole('button', { name: 'Actions for Nobody is silent' }).click();
      await page.getByRole('menuitem', { name: 'Change' }).click();
      await dialog.getByLabel('Name').fill('Nobody');
      await dialog.getByRole('button', { name: 'Save' }).click();
      await page.getByRole('button', { name: 'Actions for Nobody', exact: true }).click();
      await page.getByRole('menuitem', { name: 'Measure now' }).click();
      await page.waitForSelector('.toast:has-text("Nobody would")');
      await page.getByRole('button', { name: 'Actions for Nobody', exact: true }).click();
      await page.getByRole('menuitem', { name: 'Remove' }).click();
      await dialog.getByRole('button', { name: 'Remove' }).click();
      await page.waitForSelector('text=No alert rules yet');

      await open(page, '/app/webhooks');
      await page.getByRole('button', { name: `Actions for ${url}` }).click();
      await page.getByRole('menuitem', { name: 'Send a test' }).click();
      const delivery = page.getByRole('group', { name: 'Deliveries' }).getByRole('row', { name: 'webhook.test' });
      await delivery.getByText('failed', { exact: true }).waitFor();
      expect(await delivery.innerText()).toContain('410');
      await delivery.getByRole('button', { name: 'Send again' }).click();
      await delivery.getByText('delivered', { exact: true }).waitFor();
      expect(heard[1]).toBe(heard[0]);
      await delivery.getByRole('button', { name: 'webhook.test' }).click();
      await dialog.locator('pre:has-text("webhook.test")').waitFor();
      expect(await dialog.innerText()).toContain(heard[0]);
      await dialog.getByRole('button', { name: 'Close' }).click();
      await page.getByRole('button', { name: `Actions for ${url}` }).click();
      await page.getByRole('menuitem', { name: 'Remove' }).click();
      await dialog.getByRole('button', { name: 'Remove' }).click();
      await page.waitForSelector('text=No webhooks yet');
    });
  } finally {
    receiver.close();
  }
});

test('the API page shows every operation to everybody, and calls them for those who are signed in', async () => {
  await asVisitor(async (page) => {
    await page.goto(`${stack.url}/docs?search=sessions.current`);
    await page.getByText('/trpc/sessions.current').click();
    await page.waitForSelector('pre:has-text("curl")');
    expect(await page.getByRole('button', { name: 'Send' }).count()).toBe(0);
  });
  await as(keys.viewer!, async (page) => {
    await page.goto(`${stack.url}/docs?search=sessions.current`);
    await page.getByText('/trpc/sessions.current').click();
    await page.getByRole('button', { name: 'Send' }).click();
    await page.waitForSelector('pre:has-text("the viewer")');
  });
});

describe('the explorer', () => {
  test('filters, groups, sorts and pages, and each view is a link', async () => {
    await as(keys.viewer!, async (page) => {
      await open(page, `/app/explorer?by=user&from=${today}&to=${today}`);
      await expect.poll(() => page.locator('tbody tr').count()).toBe(50);
      await page.getByRole('button', { name: 'Next page' }).click();
      await expect.poll(() => page.locator('tbody tr').count()).toBe(10);
      await open(page, page.url().slice(stack.url.length));
      await expect.poll(() => page.locator('tbody tr').count()).toBe(10);

      await open(page, `/app/explorer?by=model&from=${week.startDate}&to=${today}`);
      await page
        .getByRole('button', { name: 'Filter by provider' })
        .or(page.getByRole('combobox', { name: 'Filter by provider' }))
        .first()
        .click();
      await page.keyboard.type('anthr');
      await page.getByRole('option', { name: 'anthropic' }).click();
      await page.keyboard.press('Escape');
      await page.waitForURL('**providers=**');
      const answer = await analytics.analytics.breakdown.query({ ...week, by: 'model', providers: ['anthropic'] });
      await expect.poll(() => numberIn(page, 'tfoot td a')).toBe(answer.totals.cost);
      await page.getByRole('button', { name: 'Requests', exact: true }).click();
      await page.waitForURL('**sort=requests**');
    });
  });

  test('groups by two dimensions, as a list and as a pivot that adds up', async () => {
    const [models, users, pairs] = await Promise.all([
      analytics.analytics.breakdown.query({ ...week, by: 'model', limit: 8 }),
      analytics.analytics.breakdown.query({ ...week, by: 'user', limit: 25 }),
      analytics.analytics.breakdown.query({ ...week, by: ['user', 'model'], limit: 200 }),
    ]);
    await as(keys.viewer!, async (page) => {
      await open(page, `/app/explorer?by=user&from=${week.startDate}&to=${today}`);
      await page.getByRole('combobox', { name: 'And by' }).click();
      await page.getByRole('option', { name: 'model' }).click();
      await page.waitForURL('**and=model**');
      const list = page.getByRole('group', { name: 'Usage by user and model' });
      await expect.poll(() => list.locator('tbody tr').count()).toBe(50);
      const first = list.locator('tbody tr').first();
      expect(await first.locator('th, td').nth(1).innerText()).toBe(pairs.rows[0]!.labels![1]);
      expect(parseFormatted(await first.getByRole('link').first().innerText())).toBe(pairs.rows[0]!.cost);

      await page.getByRole('button', { name: 'Pivot' }).click();
      await page.waitForURL('**view=pivot**');
      const pivot = page.getByRole('group', { name: 'Cost by user and model' });
      await pivot.waitFor();
      expect(await pivot.locator('thead th').allInnerTexts()).toEqual(
        expect.arrayContaining(['User', ...models.rows.map(({ label }) => label), 'Total']),
      );
      const numbersOf = async (row: Locator) =>
        (await row.locator('td').allInnerTexts()).map((text) => (text === '–' ? '0' : parseFormatted(text)));
      const rows = await Promise.all((await pivot.locator('tbody tr').all()).map(numbersOf));
      expect(rows.map((row) => row.at(-1))).toEqual(users.rows.map(({ cost }) => cost));
      for (const row of rows) expect(add(...row.slice(0, -1))).toBe(row.at(-1));
      const foot = await numbersOf(pivot.locator('tfoot tr'));
      expect(foot.at(-1)).toBe(users.totals.cost);
      expect(foot.slice(0, models.rows.length)).toEqual(models.rows.map(({ cost }) => cost));
      const [user, model] = [users.rows[0]!.key, models.rows[0]!.key];
      const own = pairs.rows.find(({ keys }) => keys![0] === user && keys![1] === model)!;
      expect(rows[0]![0]).toBe(own.cost);
    });
  });

  test('filters by team, and compares with the period before', async () => {
    const filters = { ...week, teams: ['Research'] };
    const before = { ...filters, startDate: addDays(week.startDate, -7), endDate: addDays(week.startDate, -1) };
    const [now, then] = await Promise.all([
      analytics.analytics.breakdown.query({ ...filters, by: 'merchant' }),
      analytics.analytics.breakdown.query({ ...before, by: 'merchant' }),
    ]);
    await as(keys.viewer!, async (page) => {
      await open(page, `/app/explorer?by=merchant&compare=previous&from=${week.startDate}&to=${today}`);
      await page.getByRole('combobox', { name: 'Filter by team' }).click();
      await page.getByRole('option', { name: 'Research' }).click();
      await page.keyboard.press('Escape');
      await page.waitForURL('**teams=**');
      await expect.poll(() => numberIn(page, 'tfoot td a')).toBe(now.totals.cost);
      const [largest] = now.rows;
      const delta = change(largest!.cost, then.rows.find(({ key }) => key === largest!.key)!.cost)!;
      const shown = `${delta.startsWith('-') ? 'down' : 'up'} ${delta.replace('-', '')}%`;
      const cell = page.locator('tbody tr').first().locator('td').last();
      await expect.poll(async () => (await cell.innerText()).replaceAll(/\s+/g, ' ')).toBe(shown);
    });
  });

  test('draws a year of days and ten series once, and not again while it is pointed at', async () => {
    const year = { startDate: addDays(today, -364), endDate: today };
    await as(keys.viewer!, async (page) => {
      await open(page, `/app/explorer?by=user&measure=requests&from=${year.startDate}&to=${today}`);
      await page.locator('.chart canvas').waitFor();
      expect(await page.locator('.legend li').count()).toBe(10);
      await page.evaluate(`
        window.draws = 0;
        const { clearRect } = CanvasRenderingContext2D.prototype;
        CanvasRenderingContext2D.prototype.clearRect = function (...area) {
          window.draws++;
          return clearRect.apply(this, area);
        };
        window.canvas = document.querySelector('.chart canvas');
      `);
      const { x, y, width, height } = (await page.locator('.chart canvas').boundingBox())!;
      for (let step = 0; step <= 60; step++) await page.mouse.move(x + 70 + ((width - 90) * step) / 60, y + height / 2);
      const tip = page.locator('.chart-tip');
      const numbers = (await tip.locator('.num').allInnerTexts()).map(parseFormatted);
      // The last hovered one is among the newest days.
      const [, number] = /(\d+)/.exec(await tip.locator('h3').innerText())!;
      const day = Array.from({ length: 20 }, (_, ago) => addDays(today, -ago)).find(
        (date) => Number(date.slice(8)) === Number(number),
      )!;
      const { totals } = await analytics.analytics.breakdown.query({ startDate: day, endDate: day, by: 'user' });
      expect(add(...numbers)).toBe(totals.requests);
      expect(await page.evaluate('[window.draws, window.canvas === document.querySelector(".chart canvas")]')).toEqual([
        0,
        true,
      ]);
      await page.getByRole('button', { name: 'Lines' }).click();
      await page.waitForURL('**chart=lines**');
      await expect.poll(() => page.evaluate('window.canvas.isConnected')).toBe(false);
      await page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))');
      expect(await page.evaluate('window.draws')).toBe(1);
    });
  });

  test('writes programs that ask for what it shows', async () => {
    const address = `/app/explorer?by=team&and=model&from=${week.startDate}&to=${today}&merchants=%5B"globex"%5D`;
    const shown = { ...week, by: ['team', 'model'] as [Grouping, Grouping], merchantIds: ['globex'] };
    const wanted = await analytics.analytics.breakdown.query(shown);
    await as(keys.viewer!, async (page) => {
      await open(page, address);
      const program = async (name: string) => {
        await page.getByRole('button', { name: 'Export' }).click();
        await page.getByRole('menuitem', { name: `Copy as ${name}` }).click();
        const text = await page.getByRole('dialog').locator('pre').innerText();
        await page.getByRole('button', { name: 'Done' }).click();
        return text;
      };
      const [, url, input] = /'(http[^']+)'.*'input=([^']+)'$/s.exec(await program('curl'))!;
      const answer = await fetch(`${url}?input=${encodeURIComponent(input!)}`, {
        headers: { authorization: `Bearer ${keys.viewer}` },
      });
      const { result } = (await answer.json()) as { result: { data: typeof wanted } };
      expect(result.data.rows).toEqual(wanted.rows);
      const [, object] = /\.query\((\{.*\})\);$/s.exec(await program('TypeScript'))!;
      expect(new Function(`return (${object})`)()).toEqual(JSON.parse(input!));
    });
  });

  test('exports what it shows', async () => {
    await as(keys.viewer!, async (page) => {
      await open(page, `/app/explorer?by=user&from=${week.startDate}&to=${today}&merchants=%5B"globex"%5D`);
      await page.getByRole('button', { name: 'Export' }).click();
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('menuitem', { name: 'CSV' }).click(),
      ]);
      const query = `startDate=${week.startDate}&endDate=${today}&by=user&merchantIds=globex`;
      const direct = await fetch(`${stack.url}/export/usage.csv?${query}`, {
        headers: { authorization: `Bearer ${ADMIN_KEY}` },
      });
      expect(await readFile(await download.path(), 'utf8')).toBe(await direct.text());
    });
  });
});

test('a bound key cannot reach another merchant, whatever the address says', async () => {
  await as(keys.bound!, async (page) => {
    await open(page, '/app/overview');
    expect(await page.locator('body').innerText()).not.toContain('globex');
    for (const path of [
      '/app/overview?merchants=%5B"globex"%5D',
      '/app/explorer?by=user&merchants=%5B"globex"%5D',
      '/app/explorer?by=merchant',
      '/app/explorer?by=team&and=merchant&view=pivot&merchants=%5B"globex"%5D',
      explainLink({ metric: 'cost', from: addDays(yesterday, -6), to: yesterday, merchants: ['globex'] }),
      '/app/live?merchant=globex',
      '/app/directory?kind=merchant',
    ]) {
      await open(page, path);
      const text = await page.locator('main').innerText();
      expect(text).not.toMatch(/globex-user|@globex|initech/i);
    }
    const refused = await page.request.post(`${stack.url}/trpc/usage.recent`, {
      data: { merchantId: 'globex' },
      headers: { origin: stack.url },
    });
    expect((await refused.json()).error.data.code).toBe('MERCHANT_FORBIDDEN');
  });
});

test('keys are made, shown once, and revoked', async () => {
  await as(keys.admin!, async (page) => {
    await open(page, '/app/keys');
    await page.getByRole('button', { name: 'New key' }).click();
    await page.getByLabel('Name').fill('from the console');
    await page.getByRole('button', { name: 'Make the key' }).click();
    const secret = await page.getByRole('dialog').locator('code').innerText();
    expect(secret).toMatch(/^tally_producer_/);
    await page.getByRole('button', { name: 'I have copied it' }).click();
    await page.getByRole('button', { name: 'Actions for from the console' }).click();
    await page.getByRole('menuitem', { name: 'Revoke' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
    await expect.poll(() => page.getByRole('row', { name: 'from the console' }).count()).toBe(0);
    expect(await page.locator('body').innerText()).not.toContain(secret);
  });
});

test('everything can be reached by keyboard', async () => {
  await asVisitor(async (page) => {
    await page.goto(`${stack.url}/app/sign-in`);
    // Keys pressed before the page is ready are lost.
    await page.getByLabel('API key').waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.type(keys.admin!);
    await page.keyboard.press('Enter');
    await page.waitForURL('**/app/overview');
    await page.waitForSelector('.stats a');
    await page.keyboard.press('Tab');
    expect(await page.evaluate('document.activeElement.textContent')).toBe('Skip to the page');
    await page.getByRole('link', { name: 'Explorer' }).focus();
    await page.keyboard.press('Enter');
    await page.waitForURL('**/app/explorer');
    await page.getByRole('combobox', { name: 'Measure' }).focus();
    await page.keyboard.press('Enter');
    await page.waitForSelector('[role=option][data-highlighted]');
    await page.keyboard.press('ArrowDown');
    await page.waitForSelector('[role=option][data-highlighted]:has-text("Requests")');
    await page.keyboard.press('Enter');
    await page.waitForURL('**measure=requests**');
  });
});

const PAGES = {
  overview: '/app/overview',
  explorer: '/app/explorer?by=user&compare=previous',
  pivot: '/app/explorer?by=user&and=model&view=pivot',
  time: '/app/explorer?by=time&chart=lines',
  explain: explainLink({ metric: 'cost', from: addDays(yesterday, -20), to: yesterday }),
  day: explainLink({ metric: 'cost', from: yesterday, to: yesterday, merchants: ['acme'] }),
  live: '/app/live?merchant=acme',
  meters: '/app/meters',
  custom: '/app/custom-metrics',
  prices: '/app/prices',
  budgets: '/app/budgets',
  alerts: '/app/alerts',
  webhooks: '/app/webhooks',
  keys: '/app/keys',
  directory: '/app/directory',
  jobs: '/app/jobs',
  health: '/app/health',
  audit: '/app/audit',
  sources: '/app/sources',
  dataSources: '/app/data-sources',
  api: '/docs',
  operation: '/docs?search=usage.record#usage.record',
};

describe.each([
  ['a wide light', 1440, 'light'],
  ['a narrow dark', 390, 'dark'],
] as const)('on %s screen', (_name, width, colorScheme) => {
  test('every page fits, keeps nobody out, and is quiet', async () => {
    const options = { viewport: { width, height: 900 }, colorScheme };
    await as(
      keys.admin!,
      async (page) => {
        const found: Record<string, string[]> = {};
        for (const [name, path] of Object.entries(PAGES)) {
          await open(page, path);
          const hidden = await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
          const wrong = [...(hidden > 0 ? [`${hidden} px wider than the screen`] : []), ...(await findings(page))];
          if (wrong.length > 0) found[name] = wrong;
          await screenshot(page, `${name}-${width}-${colorScheme}`);
        }
        expect(found).toEqual({});
      },
      options,
    );
  }, 670_000);
});

test('a service that is down is named, and the rest works', async () => {
  await as(keys.admin!, async (page) => {
    await stack.services.analytics.stop();
    try {
      await open(page, '/app/overview');
      await page.waitForSelector('.banner:has-text("analytics-api does not answer")');
      await page.waitForSelector('[role=alert]:has-text("analytics-api does not answer")');
      await open(page, '/app/live?merchant=acme');
      await page.waitForSelector('tbody tr:has-text("visitor-")');
      await page.waitForSelector('.stat:has-text("Throughput") .stat-value:has-text("/s")');
    } finally {
      await stack.services.analytics.start();
    }
    await open(page, '/app/overview');
    await page.waitForSelector('.stats .stat-value a');
  });
});
