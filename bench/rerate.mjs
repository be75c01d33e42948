// How long it takes to price a year again: one merchant, `users` users on each of `days` days, eight models.
//   node bench/rerate.mjs [users] [days]      (after a build; servers of its own)
// Then the differences of the last 7 days are applied as adjustments, and applied again, which adds nothing.
import { writeFile } from 'node:fs/promises';
import pg from 'pg';
import { createIngestClient } from '../packages/contracts/dist/client.js';
import { KEY, machine, withServers, withService } from './servers.mjs';

const users = Number(process.argv[2] ?? 10_000);
const days = Number(process.argv[3] ?? 365);
const END = '2026-11-22';
const back = (count) => new Date(Date.parse(END) - (count - 1) * 86_400_000).toISOString().slice(0, 10);

const result = await withServers((servers) =>
  withService('usage-ingest', servers, {}, async ({ url }) => {
    const client = createIngestClient({ url, key: KEY });
    const sql = new pg.Client({ connectionString: servers.databaseUrl });
    await sql.connect();
    sql.on('error', () => {});
    const since = back(days);
    // Days as they are long after their events were dropped, with a cost by the first prices.
    await sql.query(
      `insert into usage_priced (merchant_id, date, user_id, api_key, model, provider, call_size, priced_events,
         priced_requests, priced_input_tokens, priced_cached_tokens, priced_output_tokens, priced_cost)
       select 'acme', day::date, 'user-' || lpad(n::text, 5, '0'), 'key-' || n % 200, 'model-' || n % 8, 'provider-' || n % 3,
         0, 3, 3, input, 50, output, input * 2500 + 50 * 1250 + output * 10000
       from generate_series($1::date, $2::date, interval '1 day') as day, generate_series(1, $3::int) as n
       cross join lateral (select 100 + n % 900 as input, 50 + n % 400 as output) as tokens`,
      [since, END, users],
    );
    await sql.query(
      'insert into usage_closed_days (date, entries) select day, 0 from generate_series($1::date, $2::date, interval $$1 day$$) as day',
      [since, END],
    );
    await sql.query('vacuum analyze usage_priced');
    const price = { per: 1_000_000, validFrom: '2025-01-01T00:00:00Z' };
    await client.prices.set.mutate({ ...price, component: 'input', amount: '3' });
    await client.prices.set.mutate({ ...price, component: 'cached_input', amount: '1.25' });
    await client.prices.set.mutate({ ...price, component: 'output', amount: '10' });
    const timed = async (input) => {
      const started = performance.now();
      const { adjustments, rows, difference } = await client.prices.rerate.mutate(input);
      return { seconds: (performance.now() - started) / 1_000, adjustments, rows: rows.length, difference };
    };
    const year = { startDate: since, endDate: END };
    const dry = await timed({ ...year, dryRun: true });
    console.error({ dry });
    const week = { startDate: back(Math.min(7, days)), endDate: END, dryRun: false };
    const applied = await timed(week);
    const again = await timed(week);
    await sql.end();
    return { dryRun: dry, appliedWeek: applied, again };
  }),
);
console.log(machine());
console.table(result);
await writeFile(
  new URL('results/rerate.json', import.meta.url),
  `${JSON.stringify({ machine: machine(), date: new Date().toISOString().slice(0, 10), users, days, ...result }, null, 2)}\n`,
);
