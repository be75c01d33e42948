import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { sql, statementsIn } from './run-sql.ts';

test('all statements are read at once, so a later build does not change those of a running process', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tally-sql-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'room'));
  for (const name of ['one.sql', 'room/two.sql', 'generate.mjs']) writeFileSync(join(folder, name), `-- ${name}`);
  const statements = statementsIn(folder);
  writeFileSync(join(folder, 'room/two.sql'), '-- of the next release');
  expect([...statements].sort()).toEqual([
    ['one', '-- one.sql'],
    ['room/two', '-- room/two.sql'],
  ]);
});

test('an unknown statement is named', () => {
  expect(() => sql('no-such')).toThrow('There is no statement sql/no-such.sql.');
  expect(sql('schema/ping')).toContain('select 1');
});
