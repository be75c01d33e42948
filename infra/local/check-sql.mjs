import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

// Checks that SQL is in `packages/db/sql`, not in strings of TypeScript (ADR 112). Prints each problem and exits with 1
// if there is any. The files of COMPOSED write statements whose text depends on a query, a formula, a meter or the
// catalog. A file leaves the list with its last statement.
const STATEMENT =
  /[`'](?:\s*|\()(?:select (?!the\b)[\w(*$]|insert into \w|update \w+ (?:set|as)|delete from \w|with \w+ as)/;
const COMPOSED = [
  // The text depends on the dimensions, measures and periods of a query.
  'packages/db/src/rollups/breakdown-statement.ts',
  'packages/db/src/rollups/grouping.ts',
  'packages/db/src/rollups/overview-statement.ts',
  'packages/db/src/rollups/source.ts',
  'packages/db/src/rollups/usage-reader.ts',
  // The table is that of a grain.
  'packages/db/src/rollups/rollups-store.ts',
  // A formula of a custom metric.
  'packages/db/src/custom/metric-query.ts',
  // The aggregation, dimensions and filters of a meter.
  'packages/db/src/meters/event-rows.ts',
  'packages/db/src/meters/event-scope.ts',
  'packages/db/src/meters/limited-values.ts',
  'packages/db/src/meters/meter-checks-store.ts',
  'packages/db/src/meters/meter-reader.ts',
  // The tables that Citus places.
  'packages/db/src/distribution.ts',
  // The text lists the columns of a view from the catalog.
  'packages/db/src/export-views.ts',
  // Wraps formulas for the parser; it is never run.
  'apps/metrics-engine/src/custom/formula.ts',
];
const allowed = new Set(COMPOSED);

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
    .filter(({ file }) => !allowed.has(file))
    .map(({ file, line }) => `${file}:${line}: put SQL into packages/db/sql`),
  ...[...allowed]
    .filter((file) => !having.some((each) => each.file === file))
    .map((file) => `infra/local/check-sql.mjs: ${file} has no SQL any more; take it off the list`),
];
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
