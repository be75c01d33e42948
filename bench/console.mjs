import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { loadavg } from 'node:os';
import { chromiumBinary } from '../infra/local/chromium.mjs';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

// Measures what a visitor of the console waits for, in a real browser with an empty cache: the first paint, the first
// exact number, and a chart of a year of days and ten series; and how long that chart takes to be drawn again, and a
// frame while the pointer moves over it. Everything runs on this machine.
const { chromium } = createRequire(new URL('../apps/console/package.json', import.meta.url))('playwright-core');
const LOADS = Number(process.env.BENCH_LOADS ?? 5);
const DAYS = 365;
const MODELS = 10;
const DAY_MS = 86_400_000;
const SERVICE_KEY = 'the-service-key-of-the-bench';

const whereIs = (program) => execFileSync('sh', ['-c', 'command -v "$0"', program], { encoding: 'utf8' }).trim();
const day = (ago) => new Date(Date.now() - ago * DAY_MS).toISOString().slice(0, 10);
const median = (values) => Math.round(values.sort((a, b) => a - b)[values.length >> 1]);

async function record(url) {
  const ingest = createIngestClient({ url, key: KEY });
  for (let ago = DAYS - 1; ago >= 0; ago -= 50) {
    const days = Array.from({ length: Math.min(50, ago + 1) }, (_, index) => day(ago - index));
    const entries = days.flatMap((date) =>
      Array.from({ length: MODELS }, (_, model) => ({
        id: `${date}-${model}`,
        merchantId: 'acme',
        time: `${date}T00:00:00Z`,
        model: `model-${model}`,
        userId: `user-${model}`,
        metrics: { prompt_tokens: String(100 * (model + 1)), cost: `0.00${model + 1}` },
      })),
    );
    const { rejected } = await ingest.usage.record.mutate({ entries, backfill: true });
    if (rejected.length > 0) throw new Error(rejected[0].message);
  }
  await ingest.flush.drain.mutate({});
}

/** Opens a page with an empty cache, waits for `selector`, and returns the durations in milliseconds. */
async function load(browser, { url, path, selector, signedIn }) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  try {
    if (signedIn) await context.request.post(`${url}/session`, { data: { key: KEY }, headers: { origin: url } });
    const page = await context.newPage();
    await page.goto(url + path, { waitUntil: 'commit' });
    await page.waitForSelector(selector);
    // A quick page has its content before the browser has painted it.
    await page.waitForFunction(() => performance.getEntriesByName('first-contentful-paint').length > 0);
    return await page.evaluate(() => ({
      paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
      content: performance.now(),
      bytes: performance
        .getEntriesByType('resource')
        .filter(({ name }) => name.includes('/assets/'))
        .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
    }));
  } finally {
    await context.close();
  }
}

const MOVES = 200;

/** Draws a chart again and moves the pointer over it, day after day; returns milliseconds of drawing and of frames. */
async function useChart(browser, { url, path }) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  try {
    await context.request.post(`${url}/session`, { data: { key: KEY }, headers: { origin: url } });
    const page = await context.newPage();
    await page.goto(url + path);
    await page.waitForSelector('.chart canvas');
    const redraws = [];
    for (const name of ['Lines', 'Bars', 'Lines', 'Bars', 'Lines']) {
      const button = page.getByRole('button', { name, exact: true });
      redraws.push(
        await button.evaluate(
          (element) =>
            new Promise((done) => {
              const began = performance.now();
              const canvas = document.querySelector('.chart canvas');
              const seen = new MutationObserver(() => {
                if (canvas.isConnected) return;
                seen.disconnect();
                requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
              });
              seen.observe(document.body, { childList: true, subtree: true });
              element.click();
            }),
        ),
      );
    }
    await page.evaluate(() => {
      globalThis.frames_ = [];
      let last = performance.now();
      const tick = (now) => {
        globalThis.frames_.push(now - last);
        last = now;
        globalThis.ticking = requestAnimationFrame(tick);
      };
      globalThis.ticking = requestAnimationFrame(tick);
    });
    const { x, y, width, height } = await page.locator('.chart canvas').boundingBox();
    for (let move = 0; move <= MOVES; move++)
      await page.mouse.move(x + 70 + ((width - 90) * move) / MOVES, y + height / 2);
    const frames = await page.evaluate(() => {
      cancelAnimationFrame(globalThis.ticking);
      return globalThis.frames_.slice(1);
    });
    return { redraws, frames };
  } finally {
    await context.close();
  }
}

const share = (values, part) => Math.round(values.sort((a, b) => a - b)[Math.floor((values.length - 1) * part)]);

const rows = [];
const chart = {};
await withServers(async (servers) => {
  const settings = { TALLY_SERVICE_KEY: SERVICE_KEY };
  const all = (ingest) => ({ ...settings, USAGE_INGEST_URL: ingest.url });
  await withService('usage-ingest', servers, settings, (ingest) =>
    withService('metrics-engine', servers, all(ingest), (engine) =>
      withService('analytics-api', servers, all(ingest), (analytics) =>
        withService(
          'console',
          servers,
          { ...all(ingest), METRICS_ENGINE_URL: engine.url, ANALYTICS_API_URL: analytics.url },
          async ({ url }) => {
            await record(ingest.url);
            const browser = await chromium.launch({
              executablePath: whereIs(chromiumBinary()),
              args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
            });
            try {
              for (const [what, view] of [
                ['sign-in', { path: '/app/sign-in', selector: 'form' }],
                ['overview', { path: '/app/overview', selector: '.stats a', signedIn: true }],
                [
                  `explorer, ${DAYS} days × ${MODELS} models`,
                  {
                    path: `/app/explorer?by=model&interval=day&chart=lines&from=${day(DAYS - 1)}&to=${day(0)}`,
                    selector: '.chart canvas',
                    signedIn: true,
                  },
                ],
              ]) {
                const loads = [];
                for (let index = 0; index < LOADS; index++) loads.push(await load(browser, { url, ...view }));
                rows.push({
                  what,
                  'first paint ms': median(loads.map(({ paint }) => paint)),
                  'content ms': median(loads.map(({ content }) => content)),
                  'assets kB': Math.round(loads[0].bytes / 1000),
                });
              }
              const path = `/app/explorer?by=model&interval=day&from=${day(DAYS - 1)}&to=${day(0)}`;
              const { redraws, frames } = await useChart(browser, { url, path });
              Object.assign(chart, {
                'drawn again ms, median': median(redraws),
                'frame ms, median': share(frames, 0.5),
                'frame ms, p95': share(frames, 0.95),
                'longest frame ms': share(frames, 1),
                frames: frames.length,
              });
            } finally {
              await browser.close();
            }
          },
        ),
      ),
    ),
  );
});
const result = { machine: machine(), date: day(0), load: loadavg()[0], loads: LOADS, rows, chart };
console.log(result.machine, `load ${result.load.toFixed(1)}`);
console.table(rows);
console.log(`chart of ${DAYS} days × ${MODELS} series, pointed at ${MOVES} times`);
console.table([chart]);
await writeFile(new URL('results/console.json', import.meta.url), `${JSON.stringify(result, null, 2)}\n`);
