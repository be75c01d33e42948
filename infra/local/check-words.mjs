import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

// Checks docs, code and messages for the words that docs/glossary.md rejects. Prints each as `file:line: word: write …`
// and exits with 1 if there is any.
const GLOSSARY = 'docs/glossary.md';
/** The changelog and migrations never change. */
const EXEMPT = /CHANGELOG\.md$|\/migrations\/|^docs\/glossary\.md$/;

const [, table] = readFileSync(GLOSSARY, 'utf8').split('## Words that Tally does not use');
const words = [...table.matchAll(/^\| (?!instead|-)([^|]+?) +\| ([^|]+?) +\|$/gm)].flatMap(([, bad, good]) =>
  bad.split(', ').map((word) => ({ word, good })),
);
if (words.length === 0) throw new Error(`${GLOSSARY} has no table of words`);
// "Right away" and "goes away" are fine; only a store or service must not be "away".
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
