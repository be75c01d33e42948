import { readFile } from 'node:fs/promises';
import { addDays, type Grouping } from '@tally/contracts';
import { VERSION } from '@tally/service';
import type { Locator } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { add, change, format, parseFormatted } from '../src/web/quantity.ts';
import { findings, go, screenshot, signIn } from './browser.ts';
import { ADMIN_KEY } from './start.ts';
import { explainLink, month, numberIn, SETUP_MS, startVisits, today, type Visits, week, yesterday } from './visits.ts';

/** What the console shows of a demo, to whom, and how. */
let visits: Visits;
let { stack, ingest, analytics, keys, as, asVisitor, open } = {} as Visits;

beforeAll(async () => {
  visits = await startVisits({ demo: true });
  ({ stack, ingest, analytics, keys, as, asVisitor, open } = visits);
  await importBill();
}, SETUP_MS);
afterAll(() => visits?.stop());

describe('signing in', () => {
  test('says what is wrong with a key, and lets nobody in who may not read', async () => {
    await asVisitor(async (page) => {
      await page.goto(`${stack.url}/`);
      await page.waitForURL('**/app/sign-in**');
      for (const [key, says] of [
        ['tally_viewer_nobody', 'unknown, expired or revoked'],
        [keys.producer, 'may not read usage'],
      ] as const) {
        await page.getByLabel('API key').fill(key);
        await page.getByRole('button', { name: 'Sign in' }).click();
        await expect.poll(() => page.getByRole('alert').innerText()).toContain(says);
      }
    });
  });

  test.each(['en_US', 'C', ''])('works in a browser with the language "%s"', async (language) => {
    await asVisitor(async (page) => {
      await page.addInitScript(
        `Object.defineProperty(Navigator.prototype, 'language', { get: () => ${JSON.stringify(language)} })`,
      );
      await signIn(page, stack.url, keys.viewer);
      await expect.poll(() => page.locator('.uplot canvas').count()).toBeGreaterThan(0);
    });
  });

  test('keeps the key nowhere in the browser', async () => {
    await asVisitor(async (page) => {
      await signIn(page, stack.url, keys.viewer);
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
        ...['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Prices', 'Budgets'],
        ...['Bills', 'Alerts', 'Webhooks', 'API keys', 'Directory', 'Sources', 'Data sources'],
        ...['Jobs', 'Health', 'Audit log'],
      ],
    ],
    ['bound', ['Overview', 'Explorer', 'Live', 'Meters', 'Custom metrics', 'Budgets', 'Directory', 'Health']],
  ] as const)('shows a key of the role %s what is for it', async (role, pages) => {
    await as(keys[role], async (page) => {
      await open(page, '/app/custom-metrics');
      const links = page.getByRole('navigation', { name: 'Pages' }).getByRole('link');
      expect(await links.allInnerTexts()).toEqual(pages);
      expect((await page.getByRole('button', { name: 'New metric' }).count()) > 0).toBe(
        role === 'analyst' || role === 'admin',
      );
    });
  });

  test.each(['viewer', 'bound'] as const)('a link to a page of admins says so to a key "%s"', async (role) => {
    await as(keys[role], async (page) => {
      for (const path of ['prices', 'bills', 'alerts', 'webhooks', 'keys', 'sources', 'data-sources', 'audit']) {
        await page.goto(`${stack.url}/app/${path}`);
        await page.waitForSelector('.banner:has-text("Only admins of all merchants may see")');
        expect(await page.locator('main').getByRole('button').count()).toBe(0);
        expect(await page.locator('main').getByRole('heading', { level: 1 }).count()).toBe(1);
      }
      if (role === 'viewer') return;
      await page.goto(`${stack.url}/app/jobs`);
      await page.waitForSelector('.banner:has-text("this key is bound to one")');
    });
  });

  test('leads back to the page that was asked for, and out again', async () => {
    await asVisitor(async (page) => {
      await page.goto(`${stack.url}/app/explorer?by=user`);
      await page.waitForURL('**/app/sign-in**');
      await page.getByLabel('API key').fill(keys.viewer);
      await page.keyboard.press('Enter');
      await page.waitForURL('**/app/explorer?by=user');
      const otherTab = await page.context().newPage();
      await otherTab.goto(`${stack.url}/app/overview`);
      await otherTab.waitForSelector('.stats .stat-value a');
      await page.getByRole('button', { name: 'Sign out' }).click();
      await page.waitForURL('**/app/sign-in');
      await otherTab.waitForURL('**/app/sign-in');
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
    await as(keys.viewer, async (page) => {
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
    await as(keys.admin, async (page) => {
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

  test('name the users of events as the directory does, with their ids at hand', async () => {
    const ids = ['visitor-1', 'visitor-59'];
    const entries = ids.flatMap((id) => [
      { kind: 'user', id, name: 'Vera of acme', merchantId: 'acme' } as const,
      { kind: 'user', id, name: 'Vera of all' } as const,
    ]);
    await analytics.directory.upsert.mutate({ entries });
    await as(keys.viewer, async (page) => {
      await open(page, '/app/live?merchant=acme');
      await page.getByTitle('visitor-59').getByText('Vera of acme').first().waitFor();
      await page.getByText('visitor-58', { exact: true }).first().waitFor();
      await open(page, explainLink({ metric: 'cost', from: today, to: today, merchants: ['acme'] }));
      const event = page.getByRole('row', { name: 'Vera of acme' });
      await event.getByRole('button').first().click();
      await page.getByRole('dialog').getByText('Vera of acme (visitor-1)').waitFor();
    });
    for (const merchantId of ['acme', null]) await analytics.directory.remove.mutate({ kind: 'user', ids, merchantId });
  });

  test('are corrected beside their events, with a reason', async () => {
    await as(keys.admin, async (page) => {
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

describe('the explorer', () => {
  test('filters, groups, sorts and pages, and each view is a link', async () => {
    await as(keys.viewer, async (page) => {
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

  test('shows every choice on a narrow screen', async () => {
    await as(
      keys.viewer,
      async (page) => {
        const merchants = encodeURIComponent(JSON.stringify(['m'.repeat(120)]));
        await open(page, `/app/explorer?by=user&and=model&compare=previous&merchants=${merchants}`);
        const ends = await page
          .locator('main .tools > *, main .filters > *')
          .evaluateAll((controls) => controls.map((control) => control.getBoundingClientRect().right));
        expect(ends.length).toBeGreaterThan(8);
        expect(Math.max(...ends)).toBeLessThanOrEqual(320);
      },
      { viewport: { width: 320, height: 640 } },
    );
  });

  test('is printed with every column', async () => {
    await as(
      keys.viewer,
      async (page) => {
        await open(page, '/app/explorer?by=user&and=model&compare=previous');
        await page.emulateMedia({ media: 'print' });
        const list = page.getByRole('group', { name: 'Usage by user and model' });
        await list.locator('tbody tr').first().waitFor();
        const ends = await list
          .locator('thead th, tbody tr:first-child > *')
          .evaluateAll((cells) => cells.map((cell) => cell.getBoundingClientRect().right));
        expect(ends.length).toBeGreaterThan(10);
        expect(Math.max(...ends)).toBeLessThanOrEqual(794);
        expect(await page.getByRole('navigation').first().isVisible()).toBe(false);
      },
      { viewport: { width: 794, height: 1123 } },
    );
  });

  test('a comparison of bills is printed with whole words', async () => {
    await as(
      keys.admin,
      async (page) => {
        await open(page, '/app/bills');
        await page.emulateMedia({ media: 'print' });
        const cells = page.getByRole('group', { name: 'Comparison' }).locator('tbody tr:first-child > *');
        await cells.first().waitFor();
        expect(await cells.last().evaluate((cell) => cell.getBoundingClientRect().right)).toBeLessThanOrEqual(794);
        // Narrower, a day is broken by the letter.
        expect(await cells.first().evaluate((cell) => cell.getBoundingClientRect().width)).toBeGreaterThan(32);
      },
      { viewport: { width: 794, height: 1123 } },
    );
  });

  test('groups by two dimensions, as a list and as a pivot that adds up', async () => {
    const [models, users, pairs] = await Promise.all([
      analytics.analytics.breakdown.query({ ...week, by: 'model', limit: 8 }),
      analytics.analytics.breakdown.query({ ...week, by: 'user', limit: 25 }),
      analytics.analytics.breakdown.query({ ...week, by: ['user', 'model'], limit: 200 }),
    ]);
    await as(keys.viewer, async (page) => {
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

      await page.getByRole('button', { name: 'Compare' }).click();
      const before = { startDate: addDays(week.startDate, -7), endDate: addDays(week.startDate, -1) };
      const past = await analytics.analytics.breakdown.query({ ...before, by: 'user', userIds: [user] });
      const delta = pivot.locator('tbody tr').first().locator('td small').last();
      expect(await delta.getAttribute('title')).toContain(`${format(past.totals.cost, 'money')} in `);
    });
  });

  test('filters by team, and compares with the period before', async () => {
    const filters = { ...week, teams: ['Research'] };
    const before = { ...filters, startDate: addDays(week.startDate, -7), endDate: addDays(week.startDate, -1) };
    const [now, then] = await Promise.all([
      analytics.analytics.breakdown.query({ ...filters, by: 'merchant' }),
      analytics.analytics.breakdown.query({ ...before, by: 'merchant' }),
    ]);
    await as(keys.viewer, async (page) => {
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
    await as(keys.viewer, async (page) => {
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
      const name = await tip.locator('h3').innerText();
      const [, number] = /(\d+)/.exec(name)!;
      const day = Array.from({ length: 20 }, (_, ago) => addDays(today, -ago)).find(
        (date) => Number(date.slice(8)) === Number(number),
      )!;
      const { totals } = await analytics.analytics.breakdown.query({ startDate: day, endDate: day, by: 'user' });
      expect(add(...numbers)).toBe(totals.requests);
      await page.getByText('As a table').click();
      const inTable = page.getByRole('group', { name: /as a table$/ }).getByRole('row', { name });
      await inTable.waitFor();
      expect(add(...(await inTable.locator('td .num').allInnerTexts()).map(parseFormatted))).toBe(totals.requests);
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
    await as(keys.viewer, async (page) => {
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
    await as(keys.viewer, async (page) => {
      await open(page, `/app/explorer?by=user&from=${week.startDate}&to=${today}&merchants=%5B"globex"%5D`);
      await page.getByRole('button', { name: 'Export' }).click();
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('menuitem', { name: /^CSV(?!,)/ }).click(),
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
  await as(keys.bound, async (page) => {
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
    await open(page, explainLink({ metric: 'cost', from: yesterday, to: yesterday, merchants: ['globex'] }));
    expect(await page.locator('main').innerText()).toContain('This key is bound to merchant acme.');
    expect(await page.locator('.equation').count()).toBe(0);
    const refused = await page.request.post(`${stack.url}/trpc/usage.recent`, {
      data: { merchantId: 'globex' },
      headers: { origin: stack.url },
    });
    expect((await refused.json()).error.data.code).toBe('MERCHANT_FORBIDDEN');
  });
});

test('everything can be reached by keyboard', async () => {
  await asVisitor(async (page) => {
    await page.goto(`${stack.url}/app/sign-in`);
    // Keys pressed before the page is ready are lost.
    await page.getByLabel('API key').waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.type(keys.admin);
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

/** A bill of yesterday, so that the page of bills compares something. */
async function importBill(): Promise<void> {
  const start = Date.parse(`${yesterday}T00:00:00Z`) / 1000;
  const cost = (line_item: string, value: number, quantity: number) => ({
    ...{ object: 'organization.costs.result', amount: { value, currency: 'usd' }, line_item, quantity },
  });
  const results = [
    cost('gpt-4o-2024-08-06, input', 12.5, 5_000_000),
    cost('gpt-4o-mini-2024-07-18, cached input', 0.001_234_5, 1_000),
    cost('web search tool calls', 0.01, 1),
  ];
  const file = JSON.stringify({ data: [{ start_time: start, end_time: start + 86_400, results }], has_more: false });
  await analytics.bills.import.mutate({ provider: 'openai', file, dryRun: false });
}

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
  priceAgain: '/app/prices/again',
  bills: '/app/bills',
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
      keys.admin,
      async (page) => {
        const found: Record<string, string[]> = {};
        const known: string[] = [];
        await open(page, '/app/overview');
        for (const [name, path] of Object.entries(PAGES)) {
          await go(page, path);
          const hidden = await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
          const wrong = [
            ...(hidden > 0 ? [`${hidden} px wider than the screen`] : []),
            ...(await findings(page, known)),
          ];
          if (known.length === 0) known.push('.sidebar', '.topbar');
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
  await as(keys.admin, async (page) => {
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
    await open(page, '/app/health');
    for (const name of ['usage-ingest', 'metrics-engine', 'analytics-api', 'console'])
      await page.waitForSelector(`section[aria-label="${name}"]:has-text("ready") li:has-text("version ${VERSION}")`);
    await open(page, '/app/overview');
    await page.waitForSelector('.stats .stat-value a');
  });
});

test('a page says when it shows an old answer, and reads it again when the service is back', async () => {
  await as(keys.admin, async (page) => {
    await open(page, '/app/live?merchant=acme');
    await page.waitForSelector('tbody tr:has-text("visitor-")');
    await stack.services.ingest.stop();
    try {
      await page.waitForSelector('.banner:has-text("usage-ingest does not answer")');
      await page.waitForSelector('.banner:has-text("was last read at")');
    } finally {
      await stack.services.ingest.start();
    }
    await page.waitForSelector('.banner', { state: 'detached' });
  });
});

test('a page that got an error reads again by itself when the service is back', async () => {
  await as(keys.admin, async (page) => {
    await stack.services.analytics.stop();
    try {
      await open(page, '/app/overview');
      await page.waitForSelector('[role=alert]:has-text("analytics-api does not answer")');
    } finally {
      await stack.services.analytics.start();
    }
    await page.waitForSelector('.stats .stat-value a');
    await page.waitForSelector('[role=alert]', { state: 'detached' });
    await page.waitForSelector('.banner', { state: 'detached' });
  });
});

test('a service that hangs is named after seconds, and can be asked again', async () => {
  await as(keys.admin, async (page) => {
    await open(page, '/app/health');
    await expect.poll(() => page.title()).toBe('Health · Tally');
    process.kill(stack.services.analytics.pid, 'SIGSTOP');
    try {
      await page.click('nav a:has-text("Overview")');
      await expect.poll(() => page.title()).toBe('Overview · Tally');
      await page.waitForSelector('.banner:has-text("No answer for 10 seconds")');
      await page.waitForSelector('.banner:has-text("analytics-api does not answer")');
      await page.getByRole('button', { name: 'Ask again' }).click();
    } finally {
      process.kill(stack.services.analytics.pid, 'SIGCONT');
    }
    await page.waitForSelector('.stats .stat-value a');
    await page.waitForSelector('.banner:has-text("No answer")', { state: 'detached' });
  });
});

test('a service that hangs keeps nobody from the pages of the others', async () => {
  await as(keys.admin, async (page) => {
    await open(page, '/app/health');
    process.kill(stack.services.analytics.pid, 'SIGSTOP');
    try {
      // More questions than a browser has connections.
      await page.click('nav a:has-text("Overview")');
      await page.waitForSelector('.banner:has-text("analytics-api does not answer")');
      await page.click('nav a:has-text("Meters")');
      await page.waitForSelector('tbody tr:has-text("total_tokens")');
      await page.click('nav a:has-text("Audit log")');
      await page.waitForSelector('tbody tr:has-text("keys.create")');
    } finally {
      process.kill(stack.services.analytics.pid, 'SIGCONT');
    }
  });
});
