/** What a spreadsheet may skip in front of a formula: quotes, spaces, control, format and other invisible characters. */
const SKIPPED = String.raw`["\s\p{C}\p{Z}\p{DI}]*`;

/** What begins a formula, and everything that NFKC makes begin so: full width, small, raised, lowered, doubled. */
const STARTS = '=+\\-@−＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋﬩⩵⩶';

/**
 * Where a cell may begin: at the beginning of the text, and behind what a spreadsheet of another locale takes for the end
 * of a cell. Our quotes do not help there: they stand in the middle of its cell.
 */
const FORMULA = new RegExp(`(?<=^|[;\\t\\r\\n])(?=${SKIPPED}[${STARTS}])`, 'gu');

/** Most texts: nothing to neutralise, nothing to quote. */
const PLAIN = /^\w(?:[\w .:/@+=-]*\w)?$/;

/** Control characters but tab and line ends. */
const CONTROL = /[^\P{Cc}\t\r\n]/gu;

/**
 * Returns text as a CSV cell (RFC 4180) in which no spreadsheet finds a formula, whether it separates by comma, semicolon or
 * tab: an apostrophe goes in front of each place that would begin one. Control characters are left out.
 */
export function csvText(text: string): string {
  if (PLAIN.test(text)) return text;
  const safe = text.replace(CONTROL, '').replace(FORMULA, "'");
  return /[",;\t\r\n]|^\s|\s$/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
