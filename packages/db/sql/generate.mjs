import { writeFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { statements as compare } from './generate/compare.mjs';
import { statements as count } from './generate/count.mjs';
import { statements as erase } from './generate/erase.mjs';
import { statements as explain } from './generate/explain.mjs';
import { statements as prices } from './generate/prices.mjs';
import { statements as rebuild } from './generate/rebuild.mjs';
import { statements as rollups } from './generate/rollups.mjs';

// Generates every statement that repeats the measures or the dimensions, from their lists in contracts.

/** Breaks long lines after a comma or before an `or`. */
function wrapped(line, indent = line.search(/\S/) + 2) {
  if (line.length <= MAX_LINE || line.startsWith('--')) return line;
  const start = line.search(/\S/);
  const comma = line.lastIndexOf(', ', MAX_LINE - 1) + 1;
  const or = line.lastIndexOf(' or ', MAX_LINE - 1);
  const at = Math.max(comma, or);
  if (at <= start) return line;
  return `${line.slice(0, at)}\n${wrapped(`${' '.repeat(indent)}${line.slice(at + 1)}`, indent)}`;
}
const MAX_LINE = 120;

/** Every generated file, by its name. */
export const files = () =>
  Object.fromEntries(
    Object.entries({ ...count, ...rollups, ...prices, ...explain, ...rebuild, ...compare, ...erase }).map(
      ([name, text]) => [
        `${name}.sql`,
        `${text
          .trim()
          .split('\n')
          .map((line) => wrapped(line))
          .join('\n')}\n`,
      ],
    ),
  );

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  for (const [name, text] of Object.entries(files())) await writeFile(new URL(name, import.meta.url), text);
