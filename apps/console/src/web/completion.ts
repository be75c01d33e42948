export type Completion = { word: string; about: string };

/** The completions of the word at the caret, and where it begins. */
export type Completions = { start: number; options: readonly Completion[] };

const MAX_OPTIONS = 8;

/** Functions and keywords of formulas. */
const WORDS: readonly Completion[] = [
  ...['SUM()', 'COUNT()', 'AVG()', 'MIN()', 'MAX()'].map((word) => ({ word, about: 'aggregate' })),
  { word: 'COUNT(*)', about: 'rows' },
  { word: 'COUNT(DISTINCT )', about: 'distinct values' },
  { word: 'PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY )', about: 'percentile' },
  { word: 'FILTER (WHERE )', about: 'of an aggregate' },
  { word: 'COALESCE()', about: 'the first value that is not null' },
  { word: 'NULLIF()', about: 'null where both are equal' },
  { word: 'CASE WHEN  THEN  ELSE  END', about: 'choice' },
];

const WORD_AT_END = /[A-Za-z_][A-Za-z0-9_]*$/;

/** Returns completions of the word before the caret; none inside quoted text, or if nothing fits. */
export function completionsOf(formula: string, caret: number, columns: readonly string[]): Completions {
  const before = formula.slice(0, caret);
  const found = WORD_AT_END.exec(before);
  const isQuoted = (before.match(/'/g)?.length ?? 0) % 2 === 1;
  if (!found || isQuoted) return { start: caret, options: [] };
  const typed = found[0].toLowerCase();
  const all = [...columns.map((word) => ({ word, about: 'column' })), ...WORDS];
  const options = all.filter(({ word }) => word.toLowerCase().startsWith(typed) && word.toLowerCase() !== typed);
  return { start: found.index, options: options.slice(0, MAX_OPTIONS) };
}

/** Replaces the word before the caret by a completion. Returns the new caret, where typing continues. */
export function complete(
  formula: string,
  caret: number,
  start: number,
  word: string,
): { formula: string; caret: number } {
  // Inside an empty last pair of brackets; `WHEN` and the like end before their spaces.
  const hole = /\(\s?\)|\( \)|(?<=[A-Z] )(?= [A-Z])|(?<=[A-Z] )\)/.exec(word);
  const within = hole ? hole.index + (hole[0].startsWith('(') ? 1 : 0) : word.length;
  return { formula: formula.slice(0, start) + word + formula.slice(caret), caret: start + within };
}
