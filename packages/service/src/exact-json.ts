const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const TOKEN = /["\d\-NI]/g;
/** Values that Python writes and JSON does not have. */
const NOT_A_NUMBER = /NaN|-?Infinity/y;

/** A mark that `parseExactly` can put before numbers, to distinguish them from text. */
export const NUMBER_MARK = '\u0001';

/**
 * Parses JSON with every number as its own text, so that none goes through a float. Throws SyntaxError for invalid JSON.
 * Puts `mark` before each number, also before NaN and Infinity, which Python writes; without a mark these become null.
 */
export function parseExactly(text: string, mark: '' | typeof NUMBER_MARK = ''): unknown {
  const quote = mark === '' ? '"' : '"\\u0001';
  const parts: string[] = [];
  let copied = 0;
  TOKEN.lastIndex = 0;
  for (let token = TOKEN.exec(text); token; token = TOKEN.exec(text)) {
    const at = token.index;
    if (token[0] === '"') {
      const end = endOfString(text, at);
      if (end < 0) break;
      TOKEN.lastIndex = end;
      continue;
    }
    const number = matchAt(NUMBER, text, at);
    const taken = number ?? matchAt(NOT_A_NUMBER, text, at);
    if (taken === undefined) break;
    parts.push(text.slice(copied, at), number === undefined && mark === '' ? 'null' : `${quote}${taken}"`);
    copied = at + taken.length;
    TOKEN.lastIndex = copied;
  }
  parts.push(text.slice(copied));
  return JSON.parse(parts.join(''));
}

const STRUCTURE = /["{}[\],]/g;

/**
 * Parses the entries of a JSON object like `parseExactly`, some at once: as many as have `characters`, but at least one,
 * so that a caller can let others have their turn. Throws SyntaxError for what is no JSON object.
 */
export function* exactEntries(text: string, characters: number): Generator<[name: string, value: unknown][]> {
  let from = text.indexOf('{') + 1;
  if (text.slice(0, from).trim() !== '{') throw new SyntaxError('This is no object.');
  let depth = 1;
  let isFirst = true;
  for (let at = from; ; at++) {
    STRUCTURE.lastIndex = at;
    const found = STRUCTURE.exec(text);
    if (!found) throw new SyntaxError('The object has no end.');
    at = found.index;
    const [mark] = found;
    if (mark === '"') {
      const end = endOfString(text, at);
      if (end < 0) throw new SyntaxError('A string has no end.');
      at = end - 1;
      continue;
    }
    if (mark === '{' || mark === '[') depth++;
    else if (mark !== ',') depth--;
    const isEnd = depth === 0;
    if (!isEnd && !(mark === ',' && depth === 1 && at - from >= characters)) continue;
    const entries = Object.entries(parseExactly(`{${text.slice(from, at)}}`) as object);
    // Nothing beside a comma, and a part without an entry, are no JSON.
    if (entries.length === 0 && !(isEnd && isFirst)) throw new SyntaxError('A comma has nothing beside it.');
    yield entries;
    isFirst = false;
    from = at + 1;
    if (!isEnd) continue;
    if (mark !== '}' || text.slice(from).trim() !== '') throw new SyntaxError('Something follows the object.');
    return;
  }
}

/** The index of a string's closing quote; -1 without one. */
function endOfString(text: string, start: number): number {
  for (let quote = text.indexOf('"', start + 1); quote >= 0; quote = text.indexOf('"', quote + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(quote - 1 - backslashes) === 92) backslashes++;
    if (backslashes % 2 === 0) return quote + 1;
  }
  return -1;
}

function matchAt(pattern: RegExp, text: string, at: number): string | undefined {
  pattern.lastIndex = at;
  return pattern.exec(text)?.[0];
}

const DECIMAL = /^(-?)(\d{1,400})(?:\.(\d{1,400}))?(?:[eE]([+-]?\d{1,4}))?$/;
const MAX_DIGITS = 40;

/**
 * Returns a decimal number's text in units of 10^-decimals, rounded half up; `rest` is true if it was rounded.
 * Undefined for text that is no number, is negative, or is longer than any amount.
 */
export function unitsOf(text: string, decimals: number): { units: bigint; floor: bigint; rest: boolean } | undefined {
  const [matched, sign, whole, fraction = '', exponent = '0'] = DECIMAL.exec(text) ?? [];
  if (matched === undefined) return undefined;
  const digits = `${whole}${fraction}`.replace(/^0+/, '');
  if (digits === '') return { units: 0n, floor: 0n, rest: false };
  if (sign === '-') return undefined;
  const shift = Number(exponent) - fraction.length + decimals;
  if (digits.length + shift > MAX_DIGITS) return undefined;
  if (shift >= 0) {
    const units = BigInt(digits) * 10n ** BigInt(shift);
    return { units, floor: units, rest: false };
  }
  const kept = digits.slice(0, shift);
  const cut = kept === '' ? digits.padStart(-shift, '0') : digits.slice(shift);
  const floor = BigInt(kept || '0');
  return { units: cut >= '5' ? floor + 1n : floor, floor, rest: /[1-9]/.test(cut) };
}
