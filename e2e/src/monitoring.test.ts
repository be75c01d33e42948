import { spawnSync } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { migrate } from '@tally/db';
import { freshDatabase, freshRedis, startServiceProcess } from '@tally/testkit';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const RULES = ['alerts', 'slo'];
const hasPromtool = spawnSync('promtool', ['--version']).status === 0;

type Rule = { alert?: string; record?: string; expr: string; labels?: { severity?: string } };
type Panel = { title: string; datasource: { type: string }; targets: { expr?: string; rawSql?: string }[] };

const read = (path: string) => readFile(join(ROOT, path), 'utf8');
const rules: Rule[] = (
  await Promise.all(RULES.map(async (name) => parse(await read(`infra/prometheus/${name}.yml`))))
).flatMap(({ groups }: { groups: { rules: Rule[] }[] }) => groups.flatMap((group) => group.rules));
const dashboards: { file: string; uid: string; panels: Panel[] }[] = await Promise.all(
  (await readdir(join(ROOT, 'infra/grafana/dashboards'))).map(async (file) => ({
    file,
    ...JSON.parse(await read(`infra/grafana/dashboards/${file}`)),
  })),
);
const expressionsOf = ({ panels }: { panels: Panel[] }) =>
  panels.flatMap(({ targets }) => targets.flatMap(({ expr }) => expr ?? []));

/** Returns the metrics that an expression reads; those of a histogram or summary count as its own. */
const metricsIn = (expression: string): string[] =>
  [...expression.replaceAll(/\{[^}]*\}/g, '').matchAll(/\b(tally[_:][\w:]*)/g)].map(([, name]) => name!);

const releases: (() => Promise<unknown>)[] = [];
let served: Set<string>;
let databaseUrl: string;
beforeAll(async () => {
  const [database, redis] = await Promise.all([freshDatabase(migrate), freshRedis()]);
  databaseUrl = database.url;
  releases.push(database.drop, redis.drop);
  const key = 'the-admin-key-of-monitoring';
  const env = { DATABASE_URL: database.url, REDIS_URL: redis.url, TALLY_ADMIN_KEY: key };
  const ingest = await startServiceProcess('usage-ingest', env);
  const addresses = { ...env, USAGE_INGEST_URL: ingest.url };
  // A LiteLLM that nobody runs: its metrics exist all the same.
  const litellm = { LITELLM_URL: 'http://127.0.0.1:1', LITELLM_KEY: 'none', LITELLM_PULL_INTERVAL_MS: '0' };
  const others = await Promise.all([
    startServiceProcess('metrics-engine', addresses),
    startServiceProcess('analytics-api', { ...addresses, ...litellm }),
  ]);
  const all = [ingest, ...others];
  releases.push(...all.map((service) => () => service.stop()));
  const analyticsUrl = others[1]!.url;
  const addressesOfMetrics = [...all.map(({ url }) => `${url}/metrics`), `${analyticsUrl}/metrics/usage`];
  const headers = { authorization: `Bearer ${key}` };
  const texts = await Promise.all(addressesOfMetrics.map(async (url) => (await fetch(url, { headers })).text()));
  served = new Set(
    texts.flatMap((text) =>
      [...text.matchAll(/^# TYPE (\S+) (\w+)$/gm)].flatMap(([, name, type]) =>
        type === 'histogram' ? ['_bucket', '_sum', '_count'].map((end) => name + end) : [name!],
      ),
    ),
  );
});
afterAll(async () => {
  for (const release of releases.reverse()) await release();
});

test('every metric of rules and dashboards is served by a service or recorded by a rule', () => {
  const known = new Set([...served, ...rules.flatMap(({ record }) => record ?? [])]);
  const asked = [...rules.map(({ expr }) => expr), ...dashboards.flatMap(expressionsOf)].flatMap(metricsIn);
  expect(asked.length).toBeGreaterThan(50);
  expect([...new Set(asked)].filter((name) => !known.has(name))).toEqual([]);
});

test('every alert has a severity and a runbook, and every runbook an alert', async () => {
  const alerts = rules.flatMap(({ alert }) => alert ?? []);
  expect(new Set(alerts).size).toBe(alerts.length);
  for (const { alert, labels } of rules)
    if (alert) expect([alert, labels?.severity]).toEqual([alert, expect.stringMatching(/^(page|warn)$/)]);
  const runbooks = [...(await read('docs/operate/runbooks.md')).matchAll(/^### (Tally\w+)$/gm)].map(([, name]) => name);
  expect(runbooks.sort()).toEqual(alerts.sort());
});

test('each dashboard has an identity, and each of its panels a query', () => {
  expect(new Set(dashboards.map(({ uid }) => uid)).size).toBe(dashboards.length);
  for (const { file, panels } of dashboards)
    for (const { title, targets } of panels)
      for (const { expr, rawSql } of targets) expect(`${file} ${title}: ${expr ?? rawSql}`).toMatch(/: .+/s);
});

test('the SQL of dashboards runs on the views for BI tools', async () => {
  const queries = dashboards.flatMap(({ panels }) =>
    panels.flatMap(({ targets }) => targets.flatMap(({ rawSql }) => rawSql ?? [])),
  );
  expect(queries.length).toBeGreaterThan(3);
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  for (const query of queries) {
    const filled = query.replace(/\$__time(From|To)\(\)/g, 'now()').replaceAll('$merchant', 'All');
    expect(query).not.toMatch(/from (?!tally_bi\.)/);
    await client.query(filled);
  }
  await client.end();
});

test.skipIf(!hasPromtool)('promtool accepts the rules, and its tests of them pass', () => {
  const folder = join(ROOT, 'infra/prometheus');
  const run = (...args: string[]) => spawnSync('promtool', args, { cwd: folder, encoding: 'utf8' });
  for (const result of [
    run('check', 'rules', ...RULES.map((name) => `${name}.yml`)),
    run('test', 'rules', 'tests.yml'),
  ])
    expect([result.status, result.stdout + result.stderr]).toEqual([0, expect.any(String)]);
});
