import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { loadavg } from 'node:os';
import { chromiumBinary } from '../infra/local/chromium.mjs';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

// What someone who opens the console waits for, in a real browser with an empty cache: the first paint, the first exact
// number, and a chart of a year of days and ten series. Everything runs on this machine.
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

/** Opens a page with an empty cache, waits for `selector`, and returns what took how long, in milliseconds. */
async function load(browser, { url, path, selector, signedIn }) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  try {
    if (signedIn) await context.request.post(`${url}/session`, { data: { key: KEY }, headers: { origin: url } });
    const page = await context.newPage();
    await page.goto(url + path, { waitUntil: 'commit' });
    await page.waitForSelector(selector);
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

const rows = [];
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
            } finally {
              await browser.close();
            }
          },
        ),
      ),
    ),
  );
});
const result = { machine: machine(), date: day(0), load: loadavg()[0], loads: LOADS, rows };
console.log(result.machine, `load ${result.load.toFixed(1)}`);
console.table(rows);
await writeFile(new URL('results/console.json', import.meta.url), `${JSON.stringify(result, null, 2)}\n`);
