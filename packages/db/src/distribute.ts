import { messageOf } from '@tally/contracts';
import pg from 'pg';
import { SESSION } from './data-source.ts';
import { distributeTable, planDistribution } from './distribution.ts';
import { migrate } from './schema.ts';

// `npm run db:distribute [-- --yes]`: spreads the tables that grow with events over the nodes of Citus, by merchant.
const DEFAULT_SHARDS = 32;
const MEBIBYTE = 2 ** 20;
const url = process.env.DATABASE_URL;
const shards = Number(process.env.CITUS_SHARDS ?? DEFAULT_SHARDS);
if (!url || !Number.isInteger(shards) || shards < 1) {
  console.error('usage: DATABASE_URL=… [CITUS_SHARDS=32] distribute [--yes]');
  process.exit(1);
}
try {
  await migrate(url);
  const options = `${SESSION} -c statement_timeout=0`;
  const client = new pg.Client({ connectionString: url, application_name: 'tally-distribute', options });
  await client.connect();
  try {
    const steps = await planDistribution(client, shards);
    if (steps.length === 0) console.log('All tables are distributed already.');
    for (const { statement, rows, bytes } of steps)
      console.log(`${statement};  -- about ${rows} rows, ${Math.ceil(bytes / MEBIBYTE)} MiB`);
    if (steps.length > 0 && !process.argv.includes('--yes'))
      console.log('Nothing was changed. Back up, keep all services stopped, then run it again with --yes.');
    else
      for (const step of steps) {
        const started = performance.now();
        await distributeTable(client, step);
        console.log(`${step.what}: done in ${((performance.now() - started) / 1_000).toFixed(1)} s`);
      }
  } finally {
    await client.end();
  }
} catch (error) {
  console.error(`Not distributed: ${messageOf(error)}`);
  process.exit(1);
}
