import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { addDays } from '@tally/contracts';
import pg from 'pg';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { format, parseFormatted, subtract } from '../src/web/quantity.ts';
import { go, screenshot, settle, signIn } from './browser.ts';
import { ADMIN_KEY } from './start.ts';
import { explainLink, month, numberIn, SETUP_MS, startVisits, today, type Visits, week, yesterday } from './visits.ts';

/** A setting, so that some users of a day are counted under `(other)`. */
const USERS_A_DAY = 20;

/** What is made, changed and removed by the forms of the console. */
let visits: Visits;
let { stack, ingest, analytics, engine, keys, as, asVisitor, open } = {} as Visits;
let sql: pg.Client;

beforeAll(async () => {
  visits = await startVisits({ settings: { MAX_DIMENSION_VALUES_PER_DAY: String(USERS_A_DAY) } });
  ({ stack, ingest, analytics, engine, keys, as, asVisitor, open } = visits);
  sql = new pg.Client({ connectionString: stack.databaseUrl });
  await sql.connect();
  await asVisitor(firstSteps);
  await ingest.usage.record.mutate({
    entries: Array.from({ length: 12 }, (_, index) => ({
      id: `call-${index}`,
      merchantId: 'acme',
      time: `${index % 2 ? today : yesterday}T00:00:00Z`,
      userId: `visitor-${index % 3}`,
      model: index % 2 ? 'gpt-4o' : 'claude-sonnet',
      metrics: { prompt_tokens: '10', cost: '0.010000001', pages: String(index) },
      properties: { region: index % 3 ? 'eu' : 'us' },
    })),
  });
}, SETUP_MS);
afterAll(async () => {
  await sql?.end();
  await visits?.stop();
});

/** On an empty installation: the overview says what to do, and shows the first number without a reload. */
async function firstSteps(page: Page): Promise<void> {
  await signIn(page, stack.url, keys.admin);
  const steps = page.getByRole('region', { name: 'Record the first usage' });
  const call = await steps.locator('pre').innerText();
  expect(await page.getByRole('heading', { name: /^Top / }).count()).toBe(0);
  const [, body] = /-d '(.*)'$/s.exec(call)!;
  const answer = await page.request.post(`${stack.url}/trpc/usage.record`, {
    headers: { authorization: `Bearer ${keys.producer}` },
    data: JSON.parse(body!),
  });
  expect((await answer.json()).result.data).toMatchObject({ accepted: 1, rejected: [] });
  await page.waitForSelector('.stats .stat-value:has-text("$0.0023")');
  await steps.waitFor({ state: 'detached' });
  await ingest.usage.adjust.mutate({
    ...{ id: 'not-first', merchantId: 'example-co', date: today, reason: 'a test' },
    metrics: { requests: '-1', prompt_tokens: '-374', completion_tokens: '-44', cost: '-0.0023' },
    dimensions: { userId: 'ada', model: 'gpt-4o' },
  });
}

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
  await as(keys.viewer, async (page) => {
    await open(page, address);
    await page.getByRole('button', { name: 'wrong', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Close' }).waitFor();
    expect(await page.getByRole('button', { name: 'Void' }).count()).toBe(0);
  });
  await as(keys.admin, async (page) => {
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

test('a number is adjusted twice by the same amount, and a cancelled form is not asked about later', async () => {
  const merchantId = 'adjusted twice';
  await ingest.usage.record.mutate({
    entries: [{ id: 'one', merchantId, time: `${yesterday}T12:00:00Z`, metrics: { cost: '5' } }],
  });
  const address = explainLink({ metric: 'cost', from: yesterday, to: yesterday, merchants: [merchantId] });
  await as(keys.admin, async (page) => {
    const asked: string[] = [];
    page.on('dialog', (question) => {
      asked.push(question.message());
      void question.accept();
    });
    const dialog = page.locator('.dialog');
    await open(page, address);
    const adjust = page.getByRole('button', { name: 'Adjust', exact: true }).first();
    for (const left of ['4', '3']) {
      await adjust.click();
      await dialog.getByLabel('Amount').fill('-1');
      await dialog.getByLabel('Reason').fill('a credit');
      await dialog.getByRole('button', { name: 'Adjust' }).click();
      await expect.poll(() => numberIn(page, '.term[data-result] .value')).toBe(left);
    }
    await adjust.click();
    await dialog.getByLabel('Amount').fill('-2');
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await dialog.waitFor({ state: 'detached' });
    await adjust.click();
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    expect(asked).toEqual([]);
    await expect.poll(() => page.evaluate('document.activeElement.textContent')).toBe('Adjust');
  });
});

test('formulas are completed as they are typed', async () => {
  await as(keys.analyst, async (page) => {
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

test('a bill is checked, imported, compared and downloaded', async () => {
  await ingest.usage.record.mutate({
    entries: [
      {
        ...{ id: 'billed', merchantId: 'billed', time: `${yesterday}T12:00:00Z`, provider: 'openai', model: 'gpt-4o' },
        metrics: { prompt_tokens: '1000', completion_tokens: '10', cost: '0.5' },
      },
    ],
  });
  const start = Date.parse(`${yesterday}T00:00:00Z`) / 1000;
  const cost = (value: number, line_item: string, quantity: number) => ({
    ...{ object: 'organization.costs.result', amount: { value, currency: 'usd' }, line_item, quantity },
  });
  const results = [cost(0.75, 'gpt-4o-2024-08-06, input', 1010), cost(0.01, '=web search', 1)];
  const bucket = { object: 'bucket', start_time: start, end_time: start + 86_400, results };
  const file = JSON.stringify({ object: 'page', data: [bucket], has_more: false, next_page: null });
  await as(keys.admin, async (page) => {
    await open(page, '/app/bills');
    await page.getByRole('button', { name: 'Import a bill' }).first().click();
    const dialog = page.getByRole('dialog');
    const choose = (text: string) =>
      dialog
        .getByLabel('File')
        .setInputFiles({ name: 'costs.json', mimeType: 'application/json', buffer: Buffer.from(text) });
    await choose(file.replace('"usd"', '"eur"'));
    await dialog.getByRole('button', { name: 'Check the file' }).click();
    await dialog.getByText('1 line cannot be read').waitFor();
    expect(await dialog.getByRole('button', { name: 'Check the file' }).isDisabled()).toBe(true);
    await choose(file);
    await dialog.getByRole('button', { name: 'Check the file' }).click();
    await dialog.getByText('$0.76').waitFor();
    expect((await analytics.bills.list.query()).rows).toEqual([]);
    await dialog.getByRole('button', { name: 'Import', exact: true }).click();
    await dialog.waitFor({ state: 'hidden' });

    const rows = page.getByRole('group', { name: 'Comparison' }).getByRole('row');
    await rows.nth(2).waitFor();
    expect((await rows.nth(2).getByRole('cell').allInnerTexts()).slice(1, 7)).toEqual([
      'All tokens',
      '1,010',
      '1,010',
      '$0.75',
      '$0.50',
      '$0.25',
    ]);
    expect(await rows.nth(1).innerText()).toContain('Only on the bill');
    await page.getByRole('group', { name: 'Differences by reason' }).getByRole('button', { name: 'Price' }).click();
    await page.waitForURL('**reason=price**');
    await expect.poll(() => rows.count()).toBe(2);
    await page.getByRole('button', { name: 'All reasons' }).click();
    await expect.poll(() => rows.count()).toBe(3);
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'CSV' }).click(),
    ]);
    await open(page, '/app/bills?merchants=%5B%22nobody%22%5D');
    await page.getByText('the usage of the chosen merchants only').waitFor();
    await page.locator('.filter', { hasText: 'nobody' }).waitFor();
    await expect.poll(() => rows.nth(2).innerText()).toContain('Only on the bill');
    await open(page, '/app/bills');
    await rows.nth(2).getByRole('link').waitFor();

    const text = await readFile(await download.path(), 'utf8');
    expect(text).toContain(`\r\n${yesterday},gpt-4o,gpt-4o-2024-08-06,all,price,1010,1010,0,0.75,0.5,0.25,0,0.25,`);
    expect(text).toContain(`\r\n${yesterday},'=web search,'=web search,other,`);

    await rows.nth(2).getByRole('link').click();
    await page.waitForURL('**/app/explain**');
    await page.getByRole('row', { name: 'billed' }).waitFor();
    await open(page, '/app/bills');
    await page.getByRole('button', { name: /^Remove the cost bill/ }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.getByText('No bill covers these days').waitFor();
  });
});

test('totals that a store did not answer are not called current', async () => {
  await as(keys.viewer, async (page) => {
    for (const name of ['current', 'recent'])
      await page.route(`**/trpc/usage.${name}`, async (route) => {
        const answer = await route.fetch();
        const { result } = (await answer.json()) as { result: { data: object } };
        await route.fulfill({ response: answer, json: { result: { data: { ...result.data, complete: false } } } });
      });
    await open(page, '/app/live?merchant=acme');
    await page.waitForSelector('.stat:has-text("Requests today"):has-text("may be too low")');
    await page.waitForSelector('.stat:has-text("Throughput"):has-text("unknown")');
    await page.waitForSelector('.banner:has-text("A store does not answer")');
    expect(await page.locator('main').innerText()).not.toContain('running total');
  });
});

test('a meter of percentiles shows the one that is chosen', async () => {
  const ask = { meter: 'page_sizes', ...week, window: 'total' } as const;
  await ingest.meters.create.mutate({
    ...{ key: 'page_sizes', name: 'Page sizes', aggregation: 'PERCENTILE', metricType: 'pages', dimensions: ['model'] },
  });
  await expect.poll(async () => (await analytics.analytics.meter.query(ask)).coverage.complete).toBe(true);
  await as(keys.viewer, async (page) => {
    await open(page, `/app/explorer?meter=page_sizes&from=${week.startDate}&to=${today}`);
    for (const percentile of [50, 99]) {
      await page.getByRole('combobox', { name: 'Percentile' }).click();
      await page.getByRole('option', { name: percentile === 50 ? 'median' : 'p99' }).click();
      await page.waitForURL(`**percentile=${percentile}**`);
      const [row] = (await analytics.analytics.meter.query({ ...ask, percentile })).rows;
      await expect.poll(() => numberIn(page, '.meter-total')).toBe(row!.value);
    }
    await page.getByRole('heading', { name: 'Page sizes, p99' }).waitFor();
  });
  await ingest.meters.remove.mutate({ key: 'page_sizes' });
});

test('a meter is created, and explored by its dimensions', async () => {
  const ask = { meter: 'pages', ...week, window: 'total' } as const;
  const groupBy = ['model', 'property:region'];
  await as(keys.admin, async (page) => {
    await open(page, '/app/meters');
    await page.getByRole('button', { name: 'New meter' }).first().click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Key').fill('pages');
    await dialog.getByLabel('Name').fill('Pages read');
    await dialog.getByLabel('Metric type').fill('pages');
    await dialog.getByLabel('Dimensions').fill(groupBy.join(' '));
    await dialog.getByRole('button', { name: 'Create the meter' }).click();
    await dialog.waitFor({ state: 'hidden' });
    await expect.poll(async () => (await analytics.analytics.meter.query(ask)).coverage.complete).toBe(true);
    const total = async (more = {}) => (await analytics.analytics.meter.query({ ...ask, ...more })).rows[0]!.value;

    await open(page, `/app/explorer?meter=pages&by=model&and=property:region&from=${week.startDate}&to=${today}`);
    expect(await numberIn(page, '.meter-total')).toBe(await total());
    await page.locator('.chart canvas').waitFor();
    const { rows } = await analytics.analytics.meter.query({ ...ask, groupBy });
    const list = page.getByRole('group', { name: 'Pages read by model and region' });
    const cells = (await list.locator('tbody tr').all()).map((row) => row.locator('th, td').allInnerTexts());
    const shown = (await Promise.all(cells)).map((row) => row.slice(0, 3));
    const listed = rows.map(({ group, value }) => [group.model!, group['property:region']!, value]);
    expect(shown.sort()).toEqual(listed.sort());

    await page.getByRole('button', { name: 'Pivot' }).click();
    await page.waitForURL('**view=pivot**');
    await expect
      .poll(async () => parseFormatted(await list.locator('tfoot td').last().innerText()))
      .toBe(await total());

    await page.getByRole('combobox', { name: 'Filter by region' }).click();
    await page.getByRole('option', { name: 'eu' }).click();
    await page.keyboard.press('Escape');
    const filters = { 'property:region': ['eu'] };
    await expect.poll(() => numberIn(page, '.meter-total')).toBe(await total({ filters }));

    await page.getByRole('button', { name: 'Export' }).click();
    const link = await page.getByRole('menuitem', { name: 'JSON, every day' }).getAttribute('href');
    const file = await fetch(stack.url + link!, { headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    const days = await analytics.analytics.meter.query({ ...ask, window: 'day', groupBy: ['model'], filters });
    expect(await file.json()).toEqual(days.rows.map((row) => ({ period: row.start.slice(0, 10), ...row })));
    await page.keyboard.press('Escape');

    await open(page, '/app/meters');
    await page.getByRole('button', { name: 'Remove Pages read' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.waitForSelector('text=No meters of your own yet');
  });
});

test('a session that ends in the middle of work is begun again, and what was typed stays', async () => {
  const { id, key } = await ingest.keys.create.mutate({ name: 'the editor', role: 'analyst' });
  await asVisitor(async (page) => {
    await signIn(page, stack.url, key);
    await open(page, '/app/custom-metrics');
    await page.getByRole('button', { name: 'New metric' }).first().click();
    await page.getByLabel('Name').fill('A long formula');
    await page.context().clearCookies();
    // The next call finds out.
    await page.getByLabel('Formula').fill('SUM(cost)');
    const again = page.getByRole('dialog', { name: 'Your session ended' });
    await again.getByLabel('API key').fill(key);
    await again.getByRole('button', { name: 'Sign in', exact: true }).click();
    await again.waitFor({ state: 'hidden' });
    expect(await page.getByLabel('Name').inputValue()).toBe('A long formula');
    expect(await page.getByLabel('Formula').inputValue()).toBe('SUM(cost)');
    await page.waitForSelector('.estimate:has-text("cost")');
    // Somebody else does not see what stood there.
    await page.context().clearCookies();
    await page.getByLabel('Formula').fill('SUM(requests)');
    await again.getByLabel('API key').fill(keys.bound);
    await again.getByRole('button', { name: 'Sign in', exact: true }).click();
    await page.waitForSelector('text=viewer of acme');
    expect(await page.getByRole('dialog').count()).toBe(0);
  });
  await ingest.keys.revoke.mutate({ id });
});

test('a budget is made, shows what is spent of it, and its limit is changed', async () => {
  await as(keys.admin, async (page) => {
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
    await expect.poll(async () => (await ingest.budgets.status.query()).rows[0]!.spent).toBe(totals.cost);
    await open(page, '/app/budgets');
    expect(parseFormatted(await row.locator('td').first().locator('.num').first().innerText())).toBe(totals.cost);
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

test('what a source sends is counted, and what it may not send is listed with the reason', async () => {
  const answer = await fetch(`${stack.url}/sources/litellm/logs`, {
    method: 'POST',
    headers: { authorization: `Bearer ${ADMIN_KEY}`, 'content-type': 'application/json' },
    body: JSON.stringify([{ id: 'call-1', call_type: 'acompletion', startTime: 'no time', spend: 0.5 }]),
  });
  expect(answer.status).toBeLessThan(500);
  const rejections = async () => (await ingest.sources.rejections.query({})).rows;
  await expect.poll(async () => (await rejections()).length).toBe(1);
  const [rejection] = await rejections();
  await as(keys.admin, async (page) => {
    await open(page, '/app/sources');
    expect(await page.getByRole('group', { name: 'Rejections' }).locator('tbody tr').innerText()).toContain(
      rejection!.message,
    );
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
  const unpriced = async () => (await ingest.prices.unpriced.query(week)).rows.map(({ model }) => model);
  await expect.poll(unpriced).toContain('house-model');
  await as(keys.admin, async (page) => {
    await open(page, '/app/prices');
    const row = page.getByRole('group', { name: 'Usage without a price' }).getByRole('row', { name: 'house-model' });
    await row.getByRole('button', { name: 'Set a price' }).click();
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

test('usage is priced again after its price changed, a day at a time, and then agrees with the list', async () => {
  const merchantId = 'priced again';
  const setPrice = (amount: string) =>
    ingest.prices.set.mutate({
      ...{ model: 'renewed', component: 'input', amount, per: 1_000_000 },
      validFrom: `${week.startDate}T00:00:00Z`,
    });
  const costs = async () =>
    (await analytics.analytics.breakdown.query({ ...week, merchantIds: [merchantId], by: 'model' })).rows[0]?.cost;
  await setPrice('2');
  let calls = 0;
  await expect
    .poll(async () => {
      const { warnings } = await ingest.usage.record.mutate({
        entries: [{ id: `call-${calls++}`, merchantId: 'other', model: 'renewed', metrics: { prompt_tokens: '1' } }],
      });
      return warnings;
    })
    .toEqual([]);
  await ingest.usage.record.mutate({
    entries: [yesterday, today].map((day) => ({
      ...{ id: `on ${day}`, merchantId, time: `${day}T00:00:00Z`, model: 'renewed' },
      metrics: { prompt_tokens: '1000000' },
    })),
  });
  await setPrice('3.5');
  expect(await costs()).toBe('4');
  await as(keys.admin, async (page) => {
    await open(page, '/app/prices');
    await page.getByRole('link', { name: 'Price usage again' }).click();
    await page.getByRole('heading', { name: 'Price usage again' }).waitFor();
    const merchants = encodeURIComponent(JSON.stringify([merchantId]));
    await open(page, `/app/prices/again?from=${yesterday}&to=${today}&merchants=${merchants}`);
    await page.getByRole('button', { name: 'Show the differences' }).click();
    const rows = page.getByRole('group', { name: 'Differences' }).locator('tbody tr');
    await rows.first().waitFor();
    for (const row of await rows.allInnerTexts()) expect(row).toMatch(/\$2\.00\s+\$3\.50\s+\$1\.50$/);
    expect(await rows.count()).toBe(2);
    expect(await costs()).toBe('4');
    await page.getByRole('button', { name: 'Apply +$3.00' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Apply', exact: true }).click();
    await page.waitForSelector('text=Applied: 2 adjustments on 2 of 2 days changed the cost by +$3.00.');
    await page.waitForSelector('text=Every cost agrees with the price list');
    expect(await costs()).toBe('7');
  });
});

test('a user is erased by an admin, and all numbers stay', async () => {
  const [merchantId, userId] = ['to be forgotten', 'ada@example.com'];
  await ingest.usage.record.mutate({
    entries: [{ id: 'hers', merchantId, userId, time: `${yesterday}T12:00:00Z`, metrics: { cost: '0.75' } }],
  });
  await as(keys.viewer, async (page) => {
    await open(page, '/app/directory');
    expect(await page.getByRole('button', { name: 'Erase a user' }).count()).toBe(0);
  });
  await as(keys.admin, async (page) => {
    const dialog = page.locator('.dialog');
    await open(page, '/app/directory');
    await page.getByRole('button', { name: 'Erase a user' }).click();
    await dialog.getByLabel('Merchant').fill(merchantId);
    await dialog.getByLabel('User').fill(userId);
    await dialog.getByRole('button', { name: 'Erase' }).click();
    await dialog.waitFor({ state: 'hidden' });
    const { rows } = await analytics.analytics.breakdown.query({ ...week, merchantIds: [merchantId], by: 'user' });
    expect(rows).toMatchObject([{ cost: '0.75' }]);
    expect(rows[0]!.key).not.toBe(userId);
    await page.waitForSelector(`text=Reports name the user ${rows[0]!.key} from now on.`);
  });
});

test('an event that was not counted since its id is taken is listed with what it had', async () => {
  const merchantId = 'reuses ids';
  const send = (cost: string, time: string) =>
    ingest.usage.record.mutate({ entries: [{ id: 'call 7', merchantId, model: 'gpt-4o', time, metrics: { cost } }] });
  await send('0.5', `${yesterday}T12:00:00Z`);
  await send('0.75', `${yesterday}T13:00:00Z`);
  await as(keys.viewer, async (page) => {
    await open(page, '/app/health');
    const row = page.getByRole('group', { name: 'Conflicts' }).getByRole('row', { name: 'reuses ids' });
    expect(await row.innerText()).toContain('Cost $0.75');
    await row.getByRole('link').click();
    await expect.poll(() => page.locator('h1').innerText()).toBe('Requests');
  });
});

test('the explorer shows what came to a number after a day', async () => {
  const merchantId = 'came late';
  const entries = ['0.5', '0.75'].map((cost) => ({
    ...{ id: `cost ${cost}`, merchantId, model: 'gpt-4o', time: `${yesterday}T12:00:00Z`, metrics: { cost } },
  }));
  await ingest.usage.record.mutate({ entries });
  const merchants = encodeURIComponent(JSON.stringify([merchantId]));
  await as(keys.viewer, async (page) => {
    const address = `/app/explorer?by=model&from=${yesterday}&to=${today}&merchants=${merchants}`;
    await open(page, address);
    await page.getByRole('button', { name: 'Changed since' }).click();
    const day = page.getByLabel('Changed since the end of');
    expect(await day.inputValue()).toBe(yesterday);
    const table = page.getByRole('group', { name: 'Usage by model' });
    await expect.poll(() => table.locator('tbody tr').innerText()).toContain('+$1.25');
    await expect.poll(() => table.locator('tfoot').innerText()).toContain('+$1.25');
    expect(page.url()).toContain(`since=${yesterday}`);
    await ingest.usage.void.mutate({ merchantId, id: 'cost 0.75', date: yesterday, reason: 'a test' });
    await open(page, `${address}&since=${yesterday}`);
    await expect.poll(() => table.locator('tfoot').innerText()).toContain('+$0.50');
  });
});

test('the explorer lists rows whose usage was all taken back since', async () => {
  const merchantId = 'taken back';
  const entries = ['kept', 'gone'].map((model) => ({
    ...{ id: model, merchantId, model, userId: 'ada', time: `${yesterday}T12:00:00Z`, metrics: { cost: '0.5' } },
  }));
  await ingest.usage.record.mutate({ entries });
  await ingest.flush.drain.mutate({});
  // As if it had been counted before today.
  await sql.query(
    `update usage_flushes set started_at = started_at - interval '1 day'
     where id in (select flush_id from usage_events where merchant_id = $1)`,
    [merchantId],
  );
  await ingest.usage.void.mutate({ merchantId, id: 'gone', date: yesterday, reason: 'a test' });
  const merchants = encodeURIComponent(JSON.stringify([merchantId]));
  await as(keys.viewer, async (page) => {
    for (const [by, label] of [
      ['by=model', 'Usage by model'],
      ['by=model&and=user', 'Usage by model and user'],
    ] as const) {
      await open(page, `/app/explorer?${by}&from=${yesterday}&to=${today}&merchants=${merchants}&since=${yesterday}`);
      const table = page.getByRole('group', { name: label });
      await expect.poll(() => table.locator('tbody tr').count()).toBe(2);
      await expect.poll(() => table.getByRole('row', { name: 'kept' }).innerText()).toContain('no change');
      expect(await table.getByRole('row', { name: 'gone' }).innerText()).toMatch(/\$0\.00\s[\s\S]*−\$0\.50/);
      expect(await table.locator('tfoot').innerText()).toContain('−$0.50');
    }
  });
});

test('differences between stored forms are repaired on the health page, and the audit log has it', async () => {
  const merchantId = 'damaged';
  await ingest.usage.record.mutate({
    entries: [{ id: 'one', merchantId, time: `${yesterday}T12:00:00Z`, metrics: { prompt_tokens: '5' } }],
  });
  await ingest.flush.drain.mutate({});
  const damage = () =>
    sql.query('update usage_daily set prompt_tokens = prompt_tokens + 1 where merchant_id = $1', [merchantId]);
  await damage();
  const boundKey = await ingest.keys.create.mutate({ name: 'damaged admin', role: 'admin', merchantId });
  for (const key of [keys.admin, boundKey.key]) {
    await as(key, async (page) => {
      await open(page, '/app/health');
      const card = page.getByRole('region', { name: 'Do all stored forms agree?' });
      await card.getByRole('button', { name: /^Compare/ }).click();
      const row = card.getByRole('group', { name: 'Differences' }).getByRole('row', { name: /^damaged.*Daily rollup/ });
      await expect.poll(() => row.innerText()).toContain('Input tokens');
      await card.getByRole('button', { name: 'Repair…' }).click();
      const question = page.getByRole('dialog');
      expect(await question.innerText()).toContain('1 merchant');
      await question.getByRole('button', { name: 'Repair' }).click();
      await card.locator('.banner:has-text("all stored forms agree again")').waitFor();
      await card.getByText('They agree').waitFor();
      expect(await card.getByRole('button', { name: 'Repair…' }).count()).toBe(0);
    });
    if (key === keys.admin) await damage();
  }
  await as(keys.admin, async (page) => {
    await open(page, '/app/audit?action=reconcile.rebuild');
    await expect.poll(() => page.locator('tbody tr').count()).toBe(2);
  });
});

test('a meter gets another name and unit, and who edits is told what changed since', async () => {
  await ingest.meters.create.mutate({ key: 'pages_read', name: 'Pagse', aggregation: 'SUM', metricType: 'pages' });
  await as(keys.admin, async (page) => {
    await open(page, '/app/meters');
    await page.getByRole('button', { name: 'Change Pagse' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Name').fill('Pages');
    await ingest.meters.update.mutate({ key: 'pages_read', name: 'Pages read', unit: 'pages' });
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.getByRole('alert').getByText('name is now “Pages read”').waitFor();
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    expect(await ingest.meters.get.query({ key: 'pages_read' })).toMatchObject({ name: 'Pages', unit: 'pages' });
  });
  await ingest.meters.remove.mutate({ key: 'pages_read' });
});

test('a custom metric keeps what another editor changed, and is offered only what its key may do', async () => {
  const { id } = await engine.custom.create.mutate({
    ...{ name: 'Shared', metricType: 'SUM', dataSource: 'usage', calculationFormula: 'SUM(cost)' },
    ...{ visibility: 'PUBLIC', description: 'of all' },
  });
  await as(keys.admin, async (page) => {
    await open(page, `/app/custom-metrics?id=${id}`);
    await page.getByRole('button', { name: 'Edit' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Description').fill('');
    await engine.custom.update.mutate({ id, calculationFormula: 'SUM(requests)' });
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    const stored = await engine.custom.get.query({ id });
    expect([stored.calculationFormula, stored.description]).toEqual(['SUM(requests)', '']);

    await page.waitForSelector('h2:has-text("version 3")');
    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog.getByLabel('Formula').fill('SUM(total_tokens)');
    await engine.custom.update.mutate({ id, calculationFormula: 'SUM(prompt_tokens)' });
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.getByText('formula is now “SUM(prompt_tokens)”').waitFor();
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    expect((await engine.custom.get.query({ id })).calculationFormula).toBe('SUM(total_tokens)');
  });
  await as(keys.analyst, async (page) => {
    await open(page, `/app/custom-metrics?id=${id}`);
    await page.waitForSelector('pre:has-text("SUM(total_tokens)")');
    expect(await page.getByRole('button', { name: /^(Edit|Remove)$/ }).count()).toBe(0);
  });
  await engine.custom.remove.mutate({ id });
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
    await as(keys.admin, async (page) => {
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

test('what an alert fired has a unit, and its moments are of the viewer', async () => {
  const silence = { name: 'Quiet', on: 'silence', target: 'quiet', condition: { minutes: 1 } } as const;
  await ingest.usage.record.mutate({
    entries: [{ id: 'last', merchantId: 'quiet', time: `${yesterday}T12:34:56Z`, metrics: { cost: '1' } }],
  });
  const { id } = await engine.alerts.create.mutate(silence);
  const fired = async () => (await engine.alerts.history.query({ rule: id })).rows.length;
  // A rule that could not be measured is measured again after a minute.
  await expect.poll(fired, { timeout: 240_000 }).toBe(1);
  await as(
    keys.admin,
    async (page) => {
      await open(page, '/app/alerts');
      const fired = page.getByRole('group', { name: 'What fired' }).getByRole('row', { name: 'quiet' });
      expect(await fired.locator('td').last().innerText()).toMatch(/^[\d,]+ minutes$/);
      const moment = fired.locator('td.wrap time');
      expect(await moment.innerText()).toContain('21:34:56');
      expect(await moment.getAttribute('title')).toContain('12:34:56.000 UTC');
    },
    { timezoneId: 'Asia/Tokyo' },
  );
  await engine.alerts.remove.mutate({ id });
});

test('the API page shows every operation to everybody, and calls them for those who are signed in', async () => {
  await asVisitor(async (page) => {
    await page.goto(`${stack.url}/docs?search=sessions.current`);
    await page.getByText('/trpc/sessions.current').click();
    await page.waitForSelector('pre:has-text("curl")');
    expect(await page.getByRole('button', { name: 'Send' }).count()).toBe(0);
  });
  await as(keys.viewer, async (page) => {
    await page.goto(`${stack.url}/docs?search=sessions.current`);
    await page.getByText('/trpc/sessions.current').click();
    await page.getByRole('button', { name: 'Send' }).click();
    await page.waitForSelector('pre:has-text("the viewer")');
  });
});

test('keys are made, shown once, and revoked', async () => {
  await as(keys.admin, async (page) => {
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

test('what numbers lack is said above them', async () => {
  const date = '2024-06-03';
  const sums = { m: { totalRequests: 3, totalTokens: 30, cost: '0.5' } };
  await analytics.days.import.mutate({ documents: [{ date, aggregated_by_model: sums }] });
  await ingest.usage.record.mutate({
    entries: Array.from({ length: USERS_A_DAY + 5 }, (_, index) => ({
      ...{ id: `crowd-${index}`, merchantId: 'crowd', time: `${yesterday}T00:00:00Z`, userId: `member-${index}` },
      metrics: { cost: '1' },
    })),
  });
  const last = encodeURIComponent(JSON.stringify([`member-${USERS_A_DAY + 4}`]));
  await as(keys.viewer, async (page) => {
    const banners = page.locator('main .banner');
    for (const [path, says] of [
      [`/app/explorer?by=model&from=${date}&to=${date}`, 'do not say which requests failed'],
      [`/app/explorer?by=provider&from=${date}&to=${date}`, 'Some usage is not in these numbers'],
      [`/app/explorer?by=user&from=${yesterday}&to=${yesterday}&users=${last}`, '(other)'],
    ] as const) {
      await open(page, path);
      await banners.filter({ hasText: says }).waitFor();
    }
    await stack.services.ingest.stop();
    try {
      // Loaded again: the tab knows who was signed in.
      await open(page, '/app/health');
      await page.waitForSelector('.banner:has-text("usage-ingest does not answer")');
      await go(page, `/app/explorer?by=model&from=${yesterday}&to=${yesterday}`);
      await page.waitForSelector('.banner:has-text("Some usage is not in these numbers")');
    } finally {
      await stack.services.ingest.start();
    }
    const isWhole = async () => {
      const health = (await (await fetch(`${stack.url}/readyz`)).json()) as { ok: boolean; degraded: boolean };
      const { coverage } = await analytics.analytics.summary.query(month);
      return health.ok && !health.degraded && coverage.complete;
    };
    await expect.poll(isWhole, { timeout: 240_000, interval: 500 }).toBe(true);
    const shown = async () => {
      await open(page, '/app/overview');
      return banners.allInnerTexts();
    };
    await expect.poll(shown, { timeout: 240_000, interval: 5_000 }).toEqual([]);
  });
});

test('a budget is created once by a double click, and found by a search that the address keeps', async () => {
  await as(keys.admin, async (page) => {
    await open(page, '/app/budgets');
    await page.getByRole('button', { name: 'New budget' }).first().click();
    await page.getByLabel('Name').fill('Clicked twice');
    await page.getByLabel('Limit').fill('5');
    await page.getByRole('dialog').getByRole('button', { name: 'Save' }).dblclick();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    const made = await ingest.budgets.list.query({ search: 'clicked TWICE' });
    expect(made.rows.map(({ name }) => name)).toEqual(['Clicked twice']);

    await page.getByRole('searchbox', { name: 'Search budgets' }).fill('no such');
    await page.waitForSelector('text=No budget with “no such”');
    await page.getByRole('searchbox', { name: 'Search budgets' }).fill('twice');
    await page.waitForURL('**/app/budgets?find=twice');
    await page.reload();
    await page.waitForSelector('th:has-text("Clicked twice")');
    expect(await page.getByRole('searchbox', { name: 'Search budgets' }).inputValue()).toBe('twice');
  });
});

test('what another editor changed of a budget stays', async () => {
  const { id } = await ingest.budgets.create.mutate({
    ...{ name: 'Edited by two', measure: 'cost', limit: '5', period: 'day', enforcement: 'soft' },
  });
  await as(keys.admin, async (page) => {
    await open(page, '/app/budgets?find=edited');
    await page.getByRole('button', { name: 'Change Edited by two' }).click();
    await ingest.budgets.update.mutate({ id, limit: '70' });
    await page.getByLabel('Name').fill('Edited by both');
    await page.getByRole('dialog').getByRole('button', { name: 'Save' }).click();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    expect(await ingest.budgets.get.query({ id })).toMatchObject({ name: 'Edited by both', limit: '70' });
  });
});

test('who edits is told once what somebody else changed since', async () => {
  const { id } = await ingest.budgets.create.mutate({
    ...{ name: 'Contested', measure: 'cost', limit: '5', period: 'day', enforcement: 'soft' },
  });
  const limitOf = async () => (await ingest.budgets.get.query({ id })).limit;
  await as(keys.admin, async (page) => {
    await open(page, '/app/budgets?find=contested');
    await page.getByRole('button', { name: 'Change Contested' }).click();
    const dialog = page.getByRole('dialog', { name: 'Change Contested' });
    await ingest.budgets.update.mutate({ id, limit: '70' });
    await dialog.getByLabel('Limit').fill('6');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.getByText('Somebody changed this since you opened it: limit is now “70”.').waitFor();
    expect(await limitOf()).toBe('70');
    // What could not be saved is not lost by a key.
    page.once('dialog', (question) => void question.dismiss());
    await page.keyboard.press('Escape');
    expect(await dialog.getByLabel('Limit').inputValue()).toBe('6');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    expect(await limitOf()).toBe('6');
  });
  const webhook = await engine.webhooks.create.mutate({ url: 'http://127.0.0.1:9/first', events: ['alert.fired'] });
  await as(keys.admin, async (page) => {
    await open(page, '/app/webhooks');
    await page.getByRole('button', { name: `Actions for ${webhook.url}` }).click();
    await page.getByRole('menuitem', { name: 'Change' }).click();
    const dialog = page.getByRole('dialog', { name: 'Change the webhook' });
    await engine.webhooks.update.mutate({ id: webhook.id, events: ['alert.resolved'] });
    await dialog.getByLabel('URL').fill('http://127.0.0.1:9/second');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    const { rows } = await engine.webhooks.list.query();
    expect(rows).toMatchObject([{ url: 'http://127.0.0.1:9/second', events: ['alert.resolved'] }]);
  });
  await engine.webhooks.remove.mutate({ id: webhook.id });
});

test('a dialog asks before it discards what was typed', async () => {
  await as(keys.admin, async (page) => {
    const asked: string[] = [];
    let answer = false;
    page.on('dialog', (question) => {
      asked.push(question.message());
      void (answer ? question.accept() : question.dismiss());
    });
    await open(page, '/app/explorer');
    await go(page, '/app/budgets');
    await page.getByRole('button', { name: 'New budget' }).first().click();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    expect(asked).toEqual([]);

    await page.getByRole('button', { name: 'New budget' }).first().click();
    await page.getByRole('textbox', { name: 'Name' }).fill('Not saved yet');
    await page.keyboard.press('Escape');
    await expect.poll(() => asked.length).toBe(1);
    await page.evaluate('history.back()');
    await expect.poll(() => asked.length).toBe(2);
    expect(await page.getByRole('textbox', { name: 'Name' }).inputValue()).toBe('Not saved yet');
    answer = true;
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    expect(asked).toEqual(Array.from({ length: 3 }, () => 'Discard what you typed?'));
  });
});

test('an alert is made on the last of many budgets', async () => {
  for (let from = 0; from < 250; from += 25)
    await Promise.all(
      Array.from({ length: 25 }, (_, index) =>
        ingest.budgets.create.mutate({
          ...{ name: `Team budget ${from + index}`, measure: 'cost', limit: '5', period: 'day', enforcement: 'soft' },
        }),
      ),
    );
  const last = await ingest.budgets.create.mutate({
    ...{ name: 'The last one', measure: 'cost', limit: '5', period: 'day', enforcement: 'soft' },
  });
  await as(keys.admin, async (page) => {
    await open(page, '/app/alerts');
    await page.getByRole('button', { name: 'New alert' }).first().click();
    await page.getByLabel('Name').fill('Watches the last');
    await page.getByRole('combobox', { name: 'Budget' }).click();
    await page.waitForSelector('text=more: search to find them');
    expect(await page.getByRole('option').count()).toBe(200);
    await page.keyboard.type('the last');
    await page.getByRole('option', { name: 'The last one' }).click();
    await page.getByLabel('Value').fill('80');
    await page.getByRole('dialog', { name: 'New alert' }).getByRole('button', { name: 'Save' }).click();
    await page.waitForSelector('tr:has-text("Watches the last"):has-text("The last one")');
    const { rows } = await engine.alerts.list.query();
    expect(rows.find(({ name }) => name === 'Watches the last')).toMatchObject({ target: last.id });
  });
});

test('the page of budgets asks what is spent of those that it shows only', async () => {
  await as(keys.viewer, async (page) => {
    const asked: number[] = [];
    page.on('request', (request) => {
      if (request.url().includes('budgets.status')) asked.push(request.postDataJSON().ids.length);
    });
    await open(page, '/app/budgets');
    const rows = page.getByRole('group', { name: 'Budgets' }).locator('tbody tr');
    expect(await rows.count()).toBe(100);
    await page.getByRole('button', { name: 'Load more' }).click();
    await expect.poll(() => rows.count()).toBe(200);
    await settle(page);
    expect(await rows.last().locator('.spent').count()).toBe(1);
    expect([...new Set(asked)]).toEqual([100, 200]);
  });
});

describe('what is huge', () => {
  const date = '2024-05-02';
  const names = ['n'.repeat(200), 'مستخدم '.repeat(28).trim(), '🧪🚀'.repeat(25)];
  const range = `from=${date}&to=${date}`;

  beforeAll(async () => {
    const time = `${date}T12:00:00Z`;
    const { rejected } = await ingest.usage.record.mutate({
      entries: Array.from({ length: 1_000 }, (_, index) => ({
        ...{ id: `huge-${index}`, merchantId: 'm'.repeat(128), time, userId: names[index % 3]!, model: names[0]! },
        // The most of one event.
        metrics: { cost: index === 0 ? '0.000000001' : '999999.999999999', prompt_tokens: String(10 ** 15) },
      })),
      backfill: true,
    });
    expect(rejected).toEqual([]);
    await analytics.directory.upsert.mutate({
      entries: [{ kind: 'merchant', id: 'm'.repeat(128), name: names[1]! }],
    });
  });

  test.each([360, 1440])('fits on a screen of %i pixels, to the last digit', async (width) => {
    await as(
      keys.viewer,
      async (page) => {
        const found: Record<string, number> = {};
        for (const path of [
          `/app/explorer?by=user&${range}`,
          `/app/explorer?by=user&and=model&view=pivot&${range}`,
          `/app/explorer?by=time&${range}`,
          `/app/explain?metric=cost&${range}`,
          explainLink({ metric: 'cost', from: date, to: date, merchants: ['m'.repeat(128)], users: [names[0]!] }),
          `/app/live?merchant=${'m'.repeat(128)}`,
          '/app/directory?kind=merchant',
          '/app/overview?month=2024-05',
        ]) {
          await open(page, path);
          const over = await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
          if (over > 0) found[path] = over;
          await screenshot(page, `huge-${new URL(page.url()).pathname.slice(5)}-${width}`);
        }
        expect(found).toEqual({});
        const spend = page.locator('.stat-value').first();
        expect(parseFormatted(await spend.innerText())).toBe('998999999.999999002');
        expect(await spend.evaluate((element) => element.scrollWidth - element.clientWidth)).toBeLessThanOrEqual(0);
      },
      { viewport: { width, height: 900 } },
    );
  });

  test('leaves room for what can be done with a row', async () => {
    const [name, id] = [
      'Eine sehr lange Gesellschaft mit beschränkter Haftung '.repeat(2).slice(0, 100),
      'm'.repeat(128),
    ];
    await ingest.budgets.create.mutate({
      ...{ name, scope: { merchantId: id, userId: names[0]! }, measure: 'tokens', limit: '900000000', period: 'hour' },
      ...{ enforcement: 'hard', thresholds: [50, 80, 90, 95, 100] },
    });
    await ingest.keys.create.mutate({ name, role: 'producer', merchantId: id, teamId: id });
    await engine.alerts.create.mutate({ name, on: 'silence', target: id, condition: { minutes: 40_000 } });
    await as(keys.admin, async (page) => {
      /** The pixels by which the last cell of the row with the long name ends beyond its table. */
      const beyond = (path: string, row: string) =>
        open(page, path).then(() =>
          page
            .locator('tbody tr', { hasText: row })
            .last()
            .evaluate((cells) => {
              const table = cells.closest('.table-scroll')!;
              return cells.lastElementChild!.getBoundingClientRect().right - table.getBoundingClientRect().right;
            }),
        );
      expect(await beyond('/app/budgets?find=Gesellschaft', 'Gesellschaft')).toBeLessThanOrEqual(0);
      const table = page.getByRole('group', { name: 'Budgets' });
      expect(await table.evaluate((element) => element.scrollWidth - element.clientWidth)).toBeLessThanOrEqual(0);
      expect(await beyond('/app/keys', 'Gesellschaft')).toBeLessThanOrEqual(0);
      expect(await beyond('/app/alerts', 'Gesellschaft')).toBeLessThanOrEqual(0);
    });
  });

  test('finds one of ten thousand merchants', async () => {
    const day = addDays(date, 1);
    for (let from = 0; from < 10_000; from += 1_000)
      await ingest.usage.record.mutate({
        entries: Array.from({ length: 1_000 }, (_, index) => ({
          ...{ id: 'one', merchantId: `shop-${from + index}`, time: `${day}T00:00:00Z` },
          metrics: { cost: String(from + index) },
        })),
        backfill: true,
      });
    await as(keys.viewer, async (page) => {
      await open(page, `/app/explorer?from=${day}&to=${day}`);
      await page.getByRole('combobox', { name: 'Filter by merchant' }).click();
      await page.waitForSelector('text=more: search to find them');
      expect(await page.getByRole('option').count()).toBe(200);
      await page.keyboard.type('shop-9876');
      await page.getByRole('option', { name: 'shop-9876' }).click();
      await expect.poll(() => numberIn(page, 'tfoot td a')).toBe('9876');
    });
  });

  test('finds a merchant that no list holds, by its name and by its id', async () => {
    // The lists of filters end after 10,000 values, in order of cost.
    const day = addDays(date, 2);
    for (let from = 0; from < 10_002; from += 834)
      await ingest.usage.record.mutate({
        entries: Array.from({ length: 834 }, (_, index) => ({
          ...{ id: 'one', merchantId: `store-${String(from + index).padStart(5, '0')}`, time: `${day}T00:00:00Z` },
          metrics: { cost: String(20_000 + from + index) },
        })),
        backfill: true,
      });
    const listed = await analytics.analytics.filterOptions.query({ startDate: day, endDate: day });
    const ids = new Set(listed.merchants.map(({ id }) => id));
    const unlisted = Array.from({ length: 10_008 }, (_, index) => `store-${String(index).padStart(5, '0')}`).filter(
      (id) => !ids.has(id),
    );
    expect([ids.size, unlisted.length, listed.truncated]).toEqual([10_000, 8, true]);
    const [named, unnamed] = unlisted as [string, string];
    await analytics.directory.upsert.mutate({ entries: [{ kind: 'merchant', id: named, name: 'Corner Shop' }] });
    const costOf = (id: string) => String(20_000 + Number(id.slice(6)));
    await as(keys.viewer, async (page) => {
      for (const [typed, option, id] of [
        ['corner', 'Corner Shop', named],
        [unnamed, unnamed, unnamed],
      ] as const) {
        await open(page, `/app/explorer?from=${day}&to=${day}`);
        await page.getByRole('combobox', { name: 'Filter by merchant' }).click();
        await page.waitForSelector('text=10,000 are listed, of more');
        await page.keyboard.type(typed);
        await page.getByRole('option', { name: option }).click();
        await expect.poll(() => numberIn(page, 'tfoot td a')).toBe(costOf(id));
        await page.keyboard.press('Escape');
        const chip = page.getByRole('combobox', { name: 'Filter by merchant' });
        await expect.poll(() => chip.innerText()).toBe(`Merchant ${option}`);
        await page.reload();
        await expect.poll(() => chip.innerText()).toBe(`Merchant ${option}`);
      }
    });
  });

  // Of days of which nothing is pending, so that no banner says that something is.
  test.each(['/app/overview?month=2024-05', `/app/explorer?by=user&${range}`])(
    '%s moves nothing when slow answers come',
    async (path) => {
      await as(keys.viewer, async (page) => {
        let answer = () => {};
        const held = new Promise<void>((resolve) => {
          answer = resolve;
        });
        await page.route('**/trpc/analytics.*', async (route) => {
          await held;
          await route.continue();
        });
        // A busy machine may be late to answer, which has a banner of its own.
        await page.route('**/readyz', (route) => route.fulfill({ json: { ok: true, degraded: false, services: {} } }));
        await page.addInitScript(`
        window.moved = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) window.moved += entry.value;
        }).observe({ type: 'layout-shift', buffered: true });
      `);
        await page.goto(stack.url + path);
        await page.locator('.skeleton').first().waitFor();
        answer();
        await settle(page);
        // Of what is seen, Web Vitals call less than a tenth good.
        expect(await page.evaluate<number>('window.moved')).toBeLessThan(0.1);
      });
    },
  );
});
