/**
 * Quantities on screen. They come as exact decimal strings and stay exact: digits are grouped as text, and sums and
 * shares are computed with integers. Only pixels are approximate (see `approximate`).
 */

/** The format of a quantity: US dollars, a plain number, or a percentage. */
export type Kind = 'money' | 'count' | 'percent';

/** A quantity in the parts in which it is shown: `tail` has the decimals that most readers skip. */
export type Written = { sign: string; whole: string; decimals: string; tail: string };

const MONEY_DECIMALS = 2;
/** The most decimals of any quantity of the API. */
const SCALE = 9;
const ONE = 10n ** BigInt(SCALE);

/** Splits a quantity into the parts in which it is shown; together they are the exact value. */
export function write(quantity: string, kind: Kind): Written {
  const negative = quantity.startsWith('-');
  const [whole = '0', fraction = ''] = (negative ? quantity.slice(1) : quantity).split('.');
  const shown = kind === 'money' ? fraction.padEnd(MONEY_DECIMALS, '0') : fraction;
  return {
    sign: `${negative ? '−' : ''}${kind === 'money' ? '$' : ''}`,
    whole: whole.replace(/\B(?=(\d{3})+(?!\d))/g, ','),
    decimals: kind === 'money' ? `.${shown.slice(0, MONEY_DECIMALS)}` : shown && `.${shown}`,
    tail: kind === 'money' ? shown.slice(MONEY_DECIMALS) : '',
  };
}

/** Writes a quantity exactly: `1234.5` dollars become `$1,234.50`. */
export function format(quantity: string, kind: Kind): string {
  const { sign, whole, decimals, tail } = write(quantity, kind);
  return `${sign}${whole}${decimals}${tail}${kind === 'percent' ? '%' : ''}`;
}

/** Parses what `format` wrote. */
export function parseFormatted(text: string): string {
  const plain = text.replace(/[$,%]/g, '').replace('−', '-');
  return plain.includes('.') ? plain.replace(/0+$/, '').replace(/\.$/, '') : plain;
}

/** Returns a quantity as an integer of billionths. */
export function unitsOf(quantity: string): bigint {
  const negative = quantity.startsWith('-');
  const [whole = '0', fraction = ''] = (negative ? quantity.slice(1) : quantity).split('.');
  const units = BigInt(whole) * ONE + BigInt(fraction.padEnd(SCALE, '0').slice(0, SCALE));
  return negative ? -units : units;
}

/** Returns the quantity of an integer of billionths, in its shortest form. */
export function quantityOf(units: bigint): string {
  const digits = (units < 0n ? -units : units).toString().padStart(SCALE + 1, '0');
  const fraction = digits.slice(-SCALE).replace(/0+$/, '');
  return `${units < 0n ? '-' : ''}${digits.slice(0, -SCALE)}${fraction && `.${fraction}`}`;
}

export const add = (...quantities: string[]): string =>
  quantityOf(quantities.reduce((sum, each) => sum + unitsOf(each), 0n));
export const subtract = (from: string, quantity: string): string => quantityOf(unitsOf(from) - unitsOf(quantity));
/** Compares: negative if `left` is less than `right`, positive if it is more. */
export const compare = (left: string, right: string): number => {
  const difference = unitsOf(left) - unitsOf(right);
  return difference < 0n ? -1 : difference > 0n ? 1 : 0;
};
export const isZero = (quantity: string): boolean => /^-?0*(\.0*)?$/.test(quantity);
export const isNegative = (quantity: string): boolean => quantity.startsWith('-') && !isZero(quantity);

/** Writes a difference with its sign. */
export const signed = (difference: string, kind: Kind): string =>
  `${isNegative(difference) || isZero(difference) ? '' : '+'}${format(difference, kind)}`;

/** Returns part / whole in percent with one decimal; null if whole is 0. */
export function percentage(part: string, whole: string): string | null {
  const [numerator, denominator] = [unitsOf(part), unitsOf(whole)];
  if (denominator <= 0n) return null;
  const tenths = (numerator * 2000n + (numerator < 0n ? -denominator : denominator)) / (denominator * 2n);
  return tenthsText(tenths);
}

/** Returns the change from `previous` to `current` in percent with one decimal; null if `previous` is 0. */
export function change(current: string, previous: string): string | null {
  return isZero(previous) ? null : percentage(subtract(current, previous), previous.replace('-', ''));
}

function tenthsText(tenths: bigint): string {
  const digits = (tenths < 0n ? -tenths : tenths).toString().padStart(2, '0');
  const text = `${digits.slice(0, -1)}.${digits.slice(-1)}`;
  return tenths < 0n ? `-${text}` : text;
}

/** Writes a success rate of the API: two decimals, but 100 for all; a dash without requests. */
export const rateText = (rate: number | null): string =>
  rate === null ? '–' : rate === 100 ? '100%' : `${rate.toFixed(2)}%`;

/** Multiplies by whole / parts, for forecasts. */
export function scale(quantity: string, whole: number, parts: number): string {
  return parts <= 0 ? quantity : quantityOf((unitsOf(quantity) * BigInt(whole)) / BigInt(parts));
}

/** Rounds up to whole cents: for estimates, never for measured amounts. */
export function roundUpToCents(quantity: string): string {
  const cent = ONE / 100n;
  const units = unitsOf(quantity);
  const down = units / cent;
  return quantityOf((units > down * cent ? down + 1n : down) * cent);
}

/** For pixels only: the height of a bar, a place on an axis. */
export const approximate = (quantity: string): number => Number(quantity);
