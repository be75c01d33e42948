import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

// Checks the Markdown files of the repository: links, their headings and named paths exist, lines have at most 120
// columns, and `docs/settings.md` has every setting. Prints each problem as `file:line: problem` and exits with 1 if
// there is any.
const MAX_COLUMNS = 120;
const LINK = /\]\(([^)\s]+)\)/g;
/** A path from the root of the repository, in backticks. */
const NAMED = /`((?:apps|bench|docs|e2e|infra|packages)\/[\w./-]+)`/g;
/** A setting in the `env.ts` of a service. */
const SETTING = /^ {2,4}([A-Z][A-Z0-9_]+):/gm;
/** Settings for tests only. */
const OF_TESTS = ['TALLY_FAULT'];

const headings = new Map();
/** Returns the anchors of a Markdown file's headings, as GitHub makes them. */
function anchorsOf(file) {
  if (!headings.has(file)) {
    const lines =
      readFileSync(file, 'utf8')
        .replace(/^```.*?^```/gms, '')
        .match(/^#+ .*$/gm) ?? [];
    const names = lines.map((line) =>
      line
        .replace(/^#+ /, '')
        .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
        .toLowerCase(),
    );
    headings.set(file, new Set(names.map((name) => name.replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-'))));
  }
  return headings.get(file);
}

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
        if (/^[a-z]+:/.test(target)) continue;
        const [path, anchor] = target.split('#');
        const linked = path ? join(dirname(file), path) : file;
        if (!existsSync(linked)) found.push(`${at}: the link ${target} leads nowhere`);
        else if (anchor && !anchorsOf(linked).has(anchor)) found.push(`${at}: ${linked} has no heading #${anchor}`);
      }
      for (const [, path] of line.matchAll(NAMED)) if (!existsSync(path)) found.push(`${at}: ${path} does not exist`);
      return found;
    });
});

const described = readFileSync('docs/settings.md', 'utf8');
for (const file of execFileSync('git', ['ls-files', '*/env.ts'], { encoding: 'utf8' }).trim().split('\n'))
  for (const [, setting] of readFileSync(file, 'utf8').matchAll(SETTING))
    if (!OF_TESTS.includes(setting) && !described.includes(`\`${setting}\``))
      problems.push(`${file}: docs/settings.md does not have ${setting}`);

if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
