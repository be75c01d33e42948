import { mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cutLogs } from '../../infra/local/logs.mjs';

test('a log of npm start that grows beyond its size is cut, while its program writes on', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tally-logs-'));
  const file = join(folder, 'usage-ingest.log');
  // Like a program: opened once, to append.
  const log = await open(file, 'a');
  await writeFile(join(folder, 'small.log'), 'small');
  for (let round = 0; round < 3; round++) {
    await log.write(`${'x'.repeat(1_000)}${round}`);
    await cutLogs(folder, 1_000);
    expect(await readFile(file, 'utf8')).toBe('');
    expect(await readFile(`${file}.1`, 'utf8')).toBe(`${'x'.repeat(1_000)}${round}`);
  }
  await log.write('on');
  await cutLogs(folder, 1_000);
  expect(await readFile(file, 'utf8')).toBe('on');
  expect((await readdir(folder)).sort()).toEqual(['small.log', 'usage-ingest.log', 'usage-ingest.log.1']);
  await log.close();
  await rm(folder, { recursive: true });
});
