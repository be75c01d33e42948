/**
 * An amount of a metric type, from 0 to 10^15 units: a whole number (number, bigint or decimal string), or a decimal
 * string with as many decimals as the type's scale (option `scales`). `cost` is USD as a decimal string with at most 9
 * decimals, never a number: money never goes through a float here.
 */
export type Amount = string | number | bigint;

/** Decimals by metric type, each 0 to 9: the scales of Tally's meters. `cost` always has 9. */
export type Scales = { readonly [metricType: string]: number };

/** Usage of one call, or of `count` calls. */
export type RecordInput = {
  /**
   * An entry with an id is sent unchanged and counts once, however often it is recorded with the same time. Without an
   * id, the client may merge entries, and gives the sum an id. Rejects text that stands for a missing value (`None`,
   * `undefined`, blank …).
   */
  id?: string | undefined;
  merchantId: string;
  /** ISO 8601 with its zone, or milliseconds since 1970; default: now. */
  time?: string | number | undefined;
  /** Amounts by metric type: `{ prompt_tokens: 374, completion_tokens: 44, cost: '0.0023' }`. */
  metrics: { cost?: string | undefined; [metricType: string]: Amount | undefined };
  userId?: string | undefined;
  /** An alias or a hash of the key, never the secret. */
  apiKey?: string | undefined;
  model?: string | undefined;
  provider?: string | undefined;
  status?: 'success' | 'failure' | undefined;
  /** Calls that this entry stands for, default 1. */
  count?: number | undefined;
  properties?: { [name: string]: string | number | boolean } | undefined;
};

/** A plain counter: adds to its metric type only, and not to `requests`. */
export type TrackInput = {
  merchantId: string;
  metricType: string;
  /** Default 1. */
  by?: Amount | undefined;
  time?: string | number | undefined;
  /** As in RecordInput. */
  id?: string | undefined;
};

/** Why a record was rejected. The first two are mistakes of the caller; after the others it may be tried again. */
export type RefusalCode = 'INVALID_ENTRY' | 'RESERVED_METRIC' | 'QUEUE_FULL' | 'SPOOL_FULL' | 'SPOOL_FAILED' | 'CLOSED';

export type Refusal = { readonly ok: false; readonly code: RefusalCode; readonly message: string };

/** The result of `record` and `track`: accepted, or the reason for rejecting it. They never throw. */
export type Taken = { readonly ok: true } | Refusal;

export const refusal = (code: RefusalCode, message: string): Refusal => ({ ok: false, code, message });

/** The largest amount of one entry. Twice this is below 2^53, so sums held below it are exact as numbers. */
export const MAX_UNITS = 1e15;
export const QUARTER_HOUR_MS = 900_000;
export const MAX_METRICS = 32;

const ZERO = 48;
const POINT = 46;
const COST_DECIMALS = 9;
const UNITS_OF_ONE = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9] as const;

/** Units of the amount 1 at a scale of 0 to 9. */
export const unitsOfOne = (scale: number): number => UNITS_OF_ONE[scale]!;

/** Returns the function that returns the scale of a metric type. Throws a TypeError if `scales` is invalid. */
export function scaleReader(scales: Scales = {}): (metricType: string) => number {
  const known = new Map(Object.entries(scales));
  for (const [metricType, scale] of known) {
    if (!METRIC_TYPE.test(metricType)) throw new TypeError(`scales: ${metricType} is not a metric type`);
    if (!Number.isInteger(scale) || UNITS_OF_ONE[scale] === undefined) {
      throw new TypeError(`scales.${metricType}: Expected a whole number from 0 to 9, not ${String(scale)}`);
    }
    if (metricType === 'cost' && scale !== COST_DECIMALS) throw new TypeError('scales.cost: it is always 9');
  }
  known.set('cost', COST_DECIMALS);
  return (metricType) => known.get(metricType) ?? 0;
}

/** Returns the amount as an exact whole number of units; -1 if it is invalid at this scale, or too large. */
export function unitsOf(metricType: string, value: unknown, scale: number): number {
  if (typeof value === 'string') return scale === 0 ? wholeOf(value, value.length) : decimalOf(value, scale);
  if (metricType === 'cost') return -1;
  const most = MAX_UNITS / unitsOfOne(scale);
  const fits =
    typeof value === 'number'
      ? Number.isInteger(value) && value >= 0 && value <= most
      : typeof value === 'bigint' && value >= 0n && value <= most;
  return fits ? Number(value) * unitsOfOne(scale) : -1;
}

/** Parses the digits before `end`: at most 16, so that nothing valid is rounded. */
function wholeOf(text: string, end: number): number {
  if (end === 0 || end > 16) return -1;
  if (end > 1 && text.charCodeAt(0) === ZERO) return -1;
  let whole = 0;
  for (let at = 0; at < end; at++) {
    const digit = text.charCodeAt(at) - ZERO;
    if (digit < 0 || digit > 9) return -1;
    whole = whole * 10 + digit;
  }
  return whole <= MAX_UNITS ? whole : -1;
}

function decimalOf(text: string, scale: number): number {
  let point = 0;
  while (point < text.length && text.charCodeAt(point) !== POINT) point++;
  const whole = wholeOf(text, point);
  const one = unitsOfOne(scale);
  if (whole < 0 || whole > MAX_UNITS / one) return -1;
  if (point === text.length) return whole * one;
  const decimals = text.length - point - 1;
  if (decimals < 1 || decimals > scale) return -1;
  let fraction = 0;
  for (let at = point + 1; at < text.length; at++) {
    const digit = text.charCodeAt(at) - ZERO;
    if (digit < 0 || digit > 9) return -1;
    fraction = fraction * 10 + digit;
  }
  const units = whole * one + fraction * unitsOfOne(scale - decimals);
  return units <= MAX_UNITS ? units : -1;
}

/** Prints units of a scale as a decimal in the contract's form. */
export function printUnits(units: number, scale: number): string {
  if (scale === 0) return String(units);
  const fraction = units % unitsOfOne(scale);
  const whole = String((units - fraction) / unitsOfOne(scale));
  if (fraction === 0) return whole;
  return `${whole}.${String(fraction).padStart(scale, '0').replace(/0+$/, '')}`;
}

const TIME = /^(\d{4}-\d{2}-\d{2})T\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:\d{2})$/;
const YEAR_1000 = -30_610_224_000_000;
const YEAR_9999 = 253_402_300_799_999;

/** Returns the moment in milliseconds; NaN if invalid. */
export function timeOf(value: unknown): number {
  if (typeof value === 'number')
    return Number.isInteger(value) && value >= YEAR_1000 && value <= YEAR_9999 ? value : NaN;
  if (typeof value !== 'string') return NaN;
  const day = TIME.exec(value)?.[1];
  if (day === undefined || day < '1000') return NaN;
  // A day that does not exist rolls over to one that prints differently.
  const midnight = Date.parse(`${day}T00:00:00Z`);
  if (Number.isNaN(midnight) || !new Date(midnight).toISOString().startsWith(day)) return NaN;
  return Date.parse(value);
}

const METRIC_TYPE = /^[a-z][a-z0-9_]{0,63}$/;
const METRIC_TYPE_RULE =
  'Expected a lower-case letter and up to 63 more lower-case letters, digits or `_`, such as "prompt_tokens"';
const ENTRY_ID = /^[\x20-\x7e]{1,128}$/;
/** Text that programs print for a missing value. As an id it would merge all such entries of a day into one. */
const NO_ID = /^\s*(?:none|null|nil|undefined|nan|unknown|\[object object\])?\s*$/i;
// biome-ignore lint/suspicious/noControlCharactersInRegex: it is there to refuse them.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\p{Cs}]/u;
/** Invisible characters, and unassigned ones that a later Unicode version may normalise. */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Cn}\p{Zl}\p{Zp}]/u;
const PLAIN_MERCHANT = /^[A-Za-z0-9_.:@/-]{1,128}$/;
const MERCHANT_RULE =
  'merchantId: Expected 1 to 128 bytes of text without control or format characters, or space at either end';
const RESERVED = new Set(['requests', 'failed_requests', 'total_tokens']);
const KNOWN = new Set([
  'id',
  'merchantId',
  'time',
  'metrics',
  'userId',
  'apiKey',
  'model',
  'provider',
  'status',
  'count',
  'properties',
]);
const KNOWN_OF_TRACK = new Set(['merchantId', 'metricType', 'by', 'time', 'id']);

function isMerchantId(value: unknown): boolean {
  if (typeof value !== 'string') return false;
  if (PLAIN_MERCHANT.test(value)) return true;
  const normal = value.normalize('NFC');
  if (normal === '' || normal !== normal.trim() || INVISIBLE.test(normal)) return false;
  return value.length <= 128 && new TextEncoder().encode(normal).length <= 128;
}

/** Checks the fields that are equal for every entry of a group: its names, not its amounts. */
export function checkNames(entry: RecordInput): Refusal | undefined {
  for (const name of Object.keys(entry)) {
    if (!KNOWN.has(name)) return refusal('INVALID_ENTRY', `${name.slice(0, 64)}: an entry has no such field.`);
  }
  if (!isMerchantId(entry.merchantId)) {
    return refusal('INVALID_ENTRY', MERCHANT_RULE);
  }
  if (typeof entry.metrics !== 'object' || entry.metrics === null || Array.isArray(entry.metrics)) {
    return refusal('INVALID_ENTRY', 'metrics: Expected an object of amounts by metric type');
  }
  return (
    checkId(entry.id) ??
    checkDimension('userId', entry.userId) ??
    checkDimension('apiKey', entry.apiKey) ??
    checkDimension('model', entry.model) ??
    checkDimension('provider', entry.provider) ??
    checkProperties(entry.properties)
  );
}

/** Checks a counter's call except its amount and its time. */
export function checkCounter(call: TrackInput): Refusal | undefined {
  for (const name of Object.keys(call)) {
    if (!KNOWN_OF_TRACK.has(name))
      return refusal('INVALID_ENTRY', `${name.slice(0, 64)}: a counter has no such field.`);
  }
  if (!isMerchantId(call.merchantId)) {
    return refusal('INVALID_ENTRY', MERCHANT_RULE);
  }
  return checkId(call.id) ?? checkMetricType(call.metricType);
}

export function checkMetricType(metricType: unknown): Refusal | undefined {
  if (typeof metricType !== 'string' || !METRIC_TYPE.test(metricType)) {
    return refusal('INVALID_ENTRY', `metrics.${String(metricType).slice(0, 64)}: ${METRIC_TYPE_RULE}`);
  }
  if (RESERVED.has(metricType)) return refusal('RESERVED_METRIC', `${metricType} is derived by Tally; leave it out.`);
  return undefined;
}

const FRACTION = /^\d+\.(\d{1,9})$/;

/**
 * Describes the allowed amounts of a metric type. For a fraction of a type without a scale, explains how to declare
 * one.
 */
export function refuseAmount(field: string, metricType: string, value: unknown, scale: number): Refusal {
  if (metricType === 'cost') {
    const rule = 'USD from 0 to 1,000,000 as a decimal string with at most 9 decimals, such as "0.0023"';
    return refusal('INVALID_ENTRY', `${field}: Expected ${rule}`);
  }
  if (scale > 0) {
    const rule = `0 to 10^${15 - scale} as a decimal string with at most ${scale} decimals, the scale of ${metricType}`;
    return refusal('INVALID_ENTRY', `${field}: Expected ${rule}`);
  }
  const decimals = FRACTION.exec(String(value))?.[1]?.length;
  const remedy =
    decimals === undefined
      ? ''
      : `. For fractions create a meter with metricType ${metricType} and scale ${decimals} or more, and give createTally that scale, such as scales: { ${metricType}: ${decimals} }`;
  return refusal('INVALID_ENTRY', `${field}: Expected a whole number from 0 to 10^15${remedy}`);
}

function checkId(id: unknown): Refusal | undefined {
  if (id === undefined) return undefined;
  if (typeof id !== 'string' || !ENTRY_ID.test(id))
    return refusal('INVALID_ENTRY', 'id: Expected 1 to 128 printable ASCII characters');
  if (NO_ID.test(id)) return refusal('INVALID_ENTRY', `id: ${JSON.stringify(id)} identifies nothing; leave id out.`);
  return undefined;
}

function checkDimension(name: string, value: unknown): Refusal | undefined {
  if (value === '(other)')
    return refusal('INVALID_ENTRY', `${name}: \`(other)\` is what Tally calls values beyond a limit; leave it out.`);
  return value === undefined ? undefined : checkName(name, value, 256, 400);
}

/** Checks a name as Tally stores it: in NFC, without invisible characters. */
function checkName(name: string, value: unknown, max: number, maxBytes: number): Refusal | undefined {
  const stored = typeof value === 'string' && value.length <= max ? value.normalize('NFC') : undefined;
  const fits = stored !== undefined && stored.length <= max && new TextEncoder().encode(stored).length <= maxBytes;
  if (fits && !INVISIBLE.test(stored)) return undefined;
  const rule = `Expected at most ${max} characters and ${maxBytes} bytes, none of them invisible`;
  return refusal('INVALID_ENTRY', `${name}: ${rule}`);
}

function checkText(name: string, value: unknown, max: number): Refusal | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'string' && value.length <= max && !UNPRINTABLE.test(value)) return undefined;
  return refusal('INVALID_ENTRY', `${name}: Expected at most ${max} characters, none of them a control character`);
}

function checkProperties(properties: unknown): Refusal | undefined {
  if (properties === undefined) return undefined;
  if (typeof properties !== 'object' || properties === null || Array.isArray(properties)) {
    return refusal('INVALID_ENTRY', 'properties: Expected an object');
  }
  const names = Object.keys(properties);
  if (names.length > 16) return refusal('INVALID_ENTRY', 'properties: Expected at most 16');
  for (const name of names) {
    const value = (properties as Record<string, unknown>)[name];
    if (name === '__proto__') return refusal('INVALID_ENTRY', 'properties.__proto__: this name is not allowed.');
    const bad =
      checkName('properties', name, 64, 256) ??
      (typeof value === 'string'
        ? checkText(`properties.${name}`, value, 512)
        : typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))
          ? undefined
          : refusal('INVALID_ENTRY', `properties.${name}: Expected a string, a finite number or a boolean`));
    if (bad) return bad;
  }
  return undefined;
}
