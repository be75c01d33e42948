import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

// Checks that SQL is in `packages/db/sql`, not in strings of TypeScript (ADR 112). The files of LEFT still have some; a file
// leaves the list with its last statement, and no other joins. Prints each problem and exits with 1 where there is one.
const STATEMENT =
  /[`'](?:\s*|\()(?:select (?!the\b)[\w(*$]|insert into \w|update \w+ (?:set|as)|delete from \w|with \w+ as)/;
const LEFT = new Set([
  'packages/db/src/books-store.ts',
  'packages/db/src/budgets-store.ts',
  'packages/db/src/checks-store.ts',
  'packages/db/src/custom-store.ts',
  'packages/db/src/events-store.ts',
  'packages/db/src/litellm-store.ts',
  'packages/db/src/metric-query.ts',
  'packages/db/src/metric-sources-store.ts',
  'packages/db/src/meters/meter-lock.ts',
  'packages/db/src/meters/meter-reader.ts',
  'packages/db/src/meters/meter-rollups-store.ts',
  'packages/db/src/meters/meter-sql.ts',
  'packages/db/src/meters/metric-types-store.ts',
  'packages/db/src/meters/registry-store.ts',
  'packages/db/src/open-db.ts',
  'packages/db/src/partitions.ts',
  'packages/db/src/prices-store.ts',
  'packages/db/src/realtime-store.ts',
  'packages/db/src/rolled-up.ts',
  'packages/db/src/rollups-store.ts',
  'packages/db/src/shards-store.ts',
  'packages/db/src/schema.ts',
  'packages/db/src/usage-store.ts',
  // Read the catalogue or the settings of Postgres, whatever the schema is.
  'packages/db/src/data-source.ts',
  'packages/db/src/export-views.ts',
  // Wraps formulas for the parser; it is never run.
  'apps/metrics-engine/src/custom/formula.ts',
  'packages/db/src/dump-schema.ts',
  'packages/db/src/hang-guard.ts',
]);

const files = execFileSync('git', ['ls-files', 'packages/db/*.ts', 'apps/*.ts'], { encoding: 'utf8' })
  .trim()
  .split('\n')
  .filter((file) => /\/src\//.test(file) && !/\.test\.ts$|\/migrations\/|\/web\//.test(file));
const having = files.flatMap((file) => {
  const line = readFileSync(file, 'utf8')
    .split('\n')
    .findIndex((text) => STATEMENT.test(text));
  return line < 0 ? [] : [{ file, line: line + 1 }];
});
const problems = [
  ...having
    .filter(({ file }) => !LEFT.has(file))
    .map(({ file, line }) => `${file}:${line}: put SQL into packages/db/sql`),
  ...[...LEFT]
    .filter((file) => !having.some((each) => each.file === file))
    .map((file) => `infra/local/check-sql.mjs: ${file} has no SQL any more; take it off the list`),
];
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
