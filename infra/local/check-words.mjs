import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

// Checks that docs, code and messages have none of the words that docs/glossary.md tells not to use.
// Prints each as `file:line: word: write …` and exits with 1 where there is one.
const GLOSSARY = 'docs/glossary.md';
/** The changelog keeps what was written, and migrations do not change. */
const EXEMPT = /CHANGELOG\.md$|\/migrations\/|^docs\/glossary\.md$/;

const [, table] = readFileSync(GLOSSARY, 'utf8').split('## Words that Tally does not use');
const words = [...table.matchAll(/^\| (?!instead|-)([^|]+?) +\| ([^|]+?) +\|$/gm)].flatMap(([, bad, good]) =>
  bad.split(', ').map((word) => ({ word, good })),
);
if (words.length === 0) throw new Error(`${GLOSSARY} has no table of words`);
// "Away" is a word of its own in "right away" and "goes away"; only what is said of a store or service is meant.
const patternOf = (word) => new RegExp(word === 'away' ? '\\b(?:is|are|was) away\\b' : `\\b${word}\\b`, 'i');
const patterns = words.map(({ word, good }) => ({ word, good, pattern: patternOf(word) }));

const files = execFileSync('git', ['ls-files', '*.md', '*.ts', '*.tsx', '*.mjs', '*.sql', '*.lua'], {
  encoding: 'utf8',
})
  .trim()
  .split('\n')
  .filter((file) => !EXEMPT.test(file) && file !== 'infra/local/check-words.mjs');
const problems = files.flatMap((file) =>
  readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line, index) =>
      patterns
        .filter(({ pattern }) => pattern.test(line))
        .map(({ word, good }) => `${file}:${index + 1}: "${word}": write ${good}`),
    ),
);
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(1);
}
