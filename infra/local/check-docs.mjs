import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

// Checks the Markdown files of the repository: links and named paths exist, and lines have at most 120 columns. Prints
// each problem as `file:line: problem` and exits with 1 if there is any.
const MAX_COLUMNS = 120;
const LINK = /\]\(([^)\s]+)\)/g;
/** A path from the root of the repository, in backticks. */
const NAMED = /`((?:apps|bench|docs|e2e|infra|packages)\/[\w./-]+)`/g;

const files = execFileSync('git', ['ls-files', '*.md'], { encoding: 'utf8' }).trim().split('\n');
const problems = files.flatMap((file) => {
  let isCode = false;
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line, index) => {
      if (line.trimStart().startsWith('```')) isCode = !isCode;
      const at = `${file}:${index + 1}`;
      const found = [];
      if ([...line].length > MAX_COLUMNS) found.push(`${at}: more than ${MAX_COLUMNS} columns`);
      if (isCode) return found;
      for (const [, target] of line.matchAll(LINK)) {
        const [path] = target.split('#');
        if (path && !/^[a-z]+:/.test(path) && !existsSync(join(dirname(file), path)))
          found.push(`${at}: the link ${target} leads nowhere`);
      }
      for (const [, path] of line.matchAll(NAMED)) if (!existsSync(path)) found.push(`${at}: ${path} does not exist`);
      return found;
    });
});

if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
