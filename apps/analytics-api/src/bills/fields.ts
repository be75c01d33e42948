import { type BillClass, type BillKind, type Day, dayOf, isDay, TallyError, type Units } from '@tally/contracts';
import { unitsOf } from '@tally/service';

/** A line as a format reads it. `amount` is nano-USD; null: the export does not say it. */
export type ReadLine = { model: string; class: BillClass; quantity: Units | null; amount: Units | null };

/** A result of a bucket, or a row of CSV by the names of its columns: numbers are their text. */
export type Fields = Readonly<Record<string, unknown>>;

/** How a provider writes its exports. All functions throw TallyError for what they cannot read. */
export type ExportFormat = {
  /** The begin and the end (exclusive) of a JSON bucket in milliseconds. */
  bucket(bucket: Fields): { start: number; end: number };
  /** The UTC day of a row of CSV. */
  dayOfRow(row: Fields): Day;
  /** cost or usage, by the fields of a result; undefined: neither. */
  kindOf(fields: Fields): BillKind | undefined;
  /** The lines of a result; none if it has neither amounts nor usage. */
  linesOf(kind: BillKind, fields: Fields, source: 'json' | 'csv'): ReadLine[];
  /** Decimals of USD in which an amount is written. */
  decimalsOf(fields: Fields): number;
};

export const unreadable = (message: string): TallyError => new TallyError('INVALID_INPUT', message);

/** The fields of an object; none of anything else. */
export const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};

/** A text that is not empty; null: absent. */
export const textOf = (value: unknown): string | null => (typeof value === 'string' && value !== '' ? value : null);

/** A whole number of tokens or requests that is 0 if it is absent. */
export const wholeIn = (fields: Fields, name: string): Units => (isAbsent(fields[name]) ? 0n : wholeOf(fields, name));

const isAbsent = (value: unknown): boolean => value === undefined || value === null;

/** Whether a field of these is there. */
export const hasAny = (fields: Fields, names: readonly string[]): boolean =>
  names.some((name) => fields[name] !== undefined);

/** A whole number of tokens. */
export function wholeOf(fields: Fields, name: string): Units {
  const value = fields[name];
  const units = typeof value === 'string' ? unitsOf(value, 0) : undefined;
  if (!units || units.rest) throw unreadable(`${name}: expected a whole number, got ${shown(value)}.`);
  return units.units;
}

/** An amount of money in nano-USD, rounded half away from zero; `decimals`: of its unit, 9 for USD and 7 for cents. */
export function amountOf(value: unknown, decimals: number): Units {
  const text = typeof value === 'string' ? value : '';
  const units = unitsOf(text.replace(/^-/, ''), decimals);
  if (!units) throw unreadable(`Expected an amount, got ${shown(value)}.`);
  return text.startsWith('-') ? -units.units : units.units;
}

/** The lines of a model's usage, one for each class. */
export const usageLines = (model: string, quantities: Partial<Record<BillClass, Units>>): ReadLine[] =>
  Object.entries(quantities).map(([name, quantity]) => ({ model, class: name as BillClass, quantity, amount: null }));

/** Decimals in which an amount is written, without zeros at its end. */
export function decimalsIn(value: unknown): number {
  const [, fraction = '', exponent = '0'] = /^-?\d+(?:\.(\d*))?(?:[eE]([+-]?\d+))?$/.exec(String(value)) ?? [];
  return Math.max(0, fraction.replace(/0+$/, '').length - Number(exponent));
}

/** Throws for another currency than USD. */
export function assertUsd(currency: unknown): void {
  if (String(currency).toUpperCase() !== 'USD') throw unreadable(`Its currency is ${shown(currency)}, not USD.`);
}

const DAY = /^(\d{4}-\d\d-\d\d)(?:[T ][\d:.]+(?:Z|\+00:?00| UTC)?)?$/;

/** The UTC day of a text: a day, or a time of it in UTC. */
export function dayIn(value: unknown, name: string): Day {
  const [, day = ''] = DAY.exec(String(value)) ?? [];
  if (!isDay(day)) throw unreadable(`${name}: expected a UTC day as YYYY-MM-DD, got ${shown(value)}.`);
  return day;
}

/** The UTC day of a time span in milliseconds; the end is exclusive. */
export function dayWithin({ start, end }: { start: number; end: number }): Day {
  const date = dayOf(start);
  if (!(end > start) || dayOf(end - 1) !== date)
    throw unreadable('Its time is not within one UTC day: export with bucket_width=1d.');
  return date;
}

export const shown = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 80);
