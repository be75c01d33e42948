import { execFile } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import openapiTS, { astToString } from 'openapi-typescript';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ADMIN_KEY, type Stack, startStack } from './start.ts';

const run = promisify(execFile);
/** Within the package, so that `openapi-fetch` resolves from there. */
const FOLDER = fileURLToPath(new URL('../.generated/', import.meta.url));
const TSC = fileURLToPath(new URL('../node_modules/typescript/bin/tsc', import.meta.url));

/** A client written from the document only. */
const PROGRAM = `
import createClient from 'openapi-fetch';
import type { components, paths } from './schema.js';

const headers = { authorization: \`Bearer \${process.env.TALLY_KEY}\` };
const tally = createClient<paths>({ baseUrl: process.env.TALLY_URL!, headers });

const event: components['schemas']['UsageEntry'] = {
  id: 'generated-1',
  merchantId: 'acme',
  metrics: { prompt_tokens: '374', cost: '0.000000001' },
  model: 'gpt-4o',
};
const recorded = await tally.POST('/trpc/usage.record', { body: { entries: [event] } });
const accepted: number | undefined = recorded.data?.result.data.accepted;

const day = new Date().toISOString().slice(0, 10);
const range = { startDate: day, endDate: day };
const summary = await tally.GET('/api/v1/usage/summary', { params: { query: { ...range, merchantIds: ['acme', 'b'] } } });
const cost: string | undefined = summary.data?.totals.cost;

const byModel = await tally.POST('/api/v1/admin/usage/by-model', { body: { ...range, sortBy: 'totalTokens' } });
const file = await tally.GET('/export/usage.{format}', {
  params: { path: { format: 'csv' }, query: { ...range, by: 'model' } },
  parseAs: 'text',
});
const who = await tally.POST('/trpc/sessions.current');
const refused = await tally.GET('/api/v1/usage/timeseries', {
  params: { query: { startDate: day, endDate: 'never', interval: 'day' } },
});
const code: components['schemas']['ErrorCode'] | undefined = refused.error?.error.data.code;

// @ts-expect-error: the document names every field.
tally.GET('/api/v1/usage/summary', { params: { query: { startDate: day } } }).catch(() => {});
// @ts-expect-error: and every path.
tally.GET('/api/v1/usage/sumary', {}).catch(() => {});

console.log(JSON.stringify({
  accepted, cost, code,
  models: byModel.data?.rows.map(({ key, totalTokens }) => ({ key, totalTokens })),
  file: file.data?.split('\\n')[0],
  role: who.data?.result.data.role,
}));
`;

let stack: Stack;

beforeAll(async () => {
  stack = await startStack();
});

afterAll(async () => {
  await stack?.stop();
  await rm(FOLDER, { recursive: true, force: true });
});

test('a client that is generated from the document compiles and calls the running services', async () => {
  const answer = await fetch(`${stack.url}/openapi.json`);
  expect(answer.status).toBe(200);
  const types = astToString(await openapiTS(await answer.text(), { defaultNonNullable: false }));
  await mkdir(FOLDER, { recursive: true });
  await writeFile(`${FOLDER}schema.ts`, types);
  await writeFile(`${FOLDER}program.ts`, PROGRAM);
  await writeFile(`${FOLDER}package.json`, '{ "type": "module" }');
  const options = ['--strict', '--module', 'nodenext', '--target', 'es2023', '--lib', 'es2023,dom', '--types', 'node'];
  const compiled = await run(process.execPath, [TSC, ...options, '--skipLibCheck', '--ignoreConfig', 'program.ts'], {
    cwd: FOLDER,
  }).catch((error: { stdout: string }) => error);
  expect(compiled.stdout).toBe('');

  const env = { ...process.env, TALLY_URL: stack.url, TALLY_KEY: ADMIN_KEY };
  const { stdout } = await run(process.execPath, ['program.js'], { cwd: FOLDER, env });
  expect(JSON.parse(stdout)).toEqual({
    accepted: 1,
    cost: '0.000000001',
    code: 'INVALID_DATE_FORMAT',
    models: [{ key: 'gpt-4o', totalTokens: '374' }],
    file: expect.stringContaining('totalTokens'),
    role: 'admin',
  });
});
