/**
 * Characters that a spreadsheet may skip before a formula: quotes, spaces, control, format and other invisible ones.
 */
const SKIPPED = String.raw`["\s\p{C}\p{Z}\p{DI}]*`;

/**
 * Characters that begin a formula, and those that NFKC turns into them: full width, small, raised, lowered, doubled.
 */
const STARTS = '=+\\-@−＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋﬩⩵⩶';

/**
 * Where a cell may begin: at the start of the text, and after characters that a spreadsheet of another locale takes for
 * the end of a cell. Quotes do not help there: they stand in the middle of its cell.
 */
const FORMULA = new RegExp(`(?<=^|[;\\t\\r\\n])(?=${SKIPPED}[${STARTS}])`, 'gu');

/** Most texts: nothing to neutralise, nothing to quote. */
const PLAIN = /^\w(?:[\w .:/@+=-]*\w)?$/;

/** Control characters except tab and line ends. */
const CONTROL = /[^\P{Cc}\t\r\n]/gu;

/**
 * Returns text as a CSV cell (RFC 4180) in which no spreadsheet finds a formula, whether it separates by comma,
 * semicolon or tab: each place that would begin one gets an apostrophe. Removes control characters.
 */
export function csvText(text: string): string {
  if (PLAIN.test(text)) return text;
  const safe = text.replace(CONTROL, '').replace(FORMULA, "'");
  return /[",;\t\r\n]|^\s|\s$/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
