import { z } from 'zod';

/**
 * A quantity is an exact decimal: in JSON a string, inside a bigint of units. One unit is 1 for every metric type
 * but cost, where it is one nano-USD (10^-9 dollars). Nothing here goes through a float.
 */
export type Units = bigint;

/** The largest amount of one entry, in units: 10^15 (cost: a million dollars). */
export const MAX_ENTRY_UNITS: Units = 10n ** 15n;

/** The largest sum of a merchant, day and metric type; below 2^63, so that Redis and bigint columns hold it. */
export const MAX_SUM_UNITS: Units = 9n * 10n ** 18n;

export const COST_DECIMALS = 9;

/** A quantity in an answer: `"12"`, `"0.0023"`, never an exponent, never a trailing zero. */
export const Quantity = z
  .string()
  .regex(/^-?\d+(\.\d+)?$/)
  .meta({ description: 'An exact decimal.', examples: ['374'] });
export type Quantity = z.infer<typeof Quantity>;

/** A quantity as callers send it. Its metric type sets further limits. */
export const DecimalText = z
  .string()
  .regex(/^-?\d{1,19}(\.\d{1,9})?$/, 'Expected a decimal string, such as "374"')
  .meta({ examples: ['374'] });

const INTEGER = /^(0|[1-9]\d{0,18})$/;
const DECIMAL = /^(0|[1-9]\d{0,18})(?:\.(\d{1,9}))?$/;

/** Returns the decimals of a metric type's unit, from 0 to 9. `cost` always has 9. */
export type ScaleOf = (metricType: string) => number;

/** A scale for every metric type: 0, so all but cost are whole numbers. */
const WHOLE: ScaleOf = () => 0;

const decimalsOf = (metricType: string, scaleOf: ScaleOf) =>
  metricType === 'cost' ? COST_DECIMALS : scaleOf(metricType);

/** Parses a quantity of a metric type; undefined if it is negative, too precise or not a number. */
export function parseQuantity(metricType: string, text: string, scaleOf: ScaleOf = WHOLE): Units | undefined {
  const scale = decimalsOf(metricType, scaleOf);
  if (scale === 0) return INTEGER.test(text) ? BigInt(text) : undefined;
  const parts = DECIMAL.exec(text);
  const fraction = parts?.[2] ?? '';
  if (!parts || fraction.length > scale) return undefined;
  return BigInt(parts[1]! + fraction.padEnd(scale, '0'));
}

/** Returns as text the units of a quantity that parseQuantity accepts. Creates no bigint. */
export function unitsText(metricType: string, text: string, scaleOf: ScaleOf = WHOLE): string {
  const scale = decimalsOf(metricType, scaleOf);
  if (scale === 0) return text;
  const [whole, fraction = ''] = text.split('.') as [string, string?];
  return (whole + fraction.padEnd(scale, '0')).replace(/^0+(?=\d)/, '');
}

/** Like parseQuantity, but accepts a leading minus: for adjustments. */
export function parseSignedQuantity(metricType: string, text: string, scaleOf: ScaleOf = WHOLE): Units | undefined {
  if (!text.startsWith('-')) return parseQuantity(metricType, text, scaleOf);
  const units = parseQuantity(metricType, text.slice(1), scaleOf);
  return units === undefined ? undefined : -units;
}

/** Prints units of a metric type as the shortest exact decimal. */
export function formatQuantity(metricType: string, units: Units, scaleOf: ScaleOf = WHOLE): Quantity {
  return formatUnits(units, decimalsOf(metricType, scaleOf));
}

/** Prints nano-USD as dollars: 2300000n is `"0.0023"`. */
export const formatCost = (nanoUsd: Units): Quantity => formatUnits(nanoUsd, COST_DECIMALS);

/** Prints units with the given decimals as the shortest exact decimal. */
export function formatUnits(units: Units, scale: number): Quantity {
  if (scale === 0) return units.toString();
  const sign = units < 0n ? '-' : '';
  const digits = (units < 0n ? -units : units).toString().padStart(scale + 1, '0');
  const fraction = digits.slice(-scale).replace(/0+$/, '');
  return `${sign}${digits.slice(0, -scale)}${fraction === '' ? '' : `.${fraction}`}`;
}

/**
 * Returns part / whole in percent, rounded half up to 2 decimals; null if the whole is 0. Less than the whole is never
 * rounded to 100, so 100 means all.
 */
export function percentOf(part: Units, whole: Units): number | null {
  if (whole === 0n) return null;
  const rounded = Number((part * 20_000n + whole) / (whole * 2n)) / 100;
  return rounded === 100 && part < whole ? 99.99 : rounded;
}
