import { EVENT_TYPE_PROPERTY, parseTime, RESERVED_METRICS, TallyError, type UsageEntry } from '@tally/contracts';
import { type Caller, NUMBER_MARK, unitsOf } from '@tally/service';
import { decoration, dimension, idOf, merchantOf, present } from './naming.ts';
import type { Item } from './source.ts';

/** An event of another product: its parts as values of JSON that `parseExactly` read with `NUMBER_MARK`. */
export type ForeignEvent = {
  /** The product's id for repeats; it becomes part of the event's id. */
  identity: readonly unknown[];
  /** The prefix of the event's id: one per product, so that the same id of two products is two events. */
  family: string;
  /** The customer, which becomes the merchant. */
  customer: unknown;
  /** ISO 8601 text; absent: now. */
  time: unknown;
  /** The kind of the event: the property `event_type`. */
  type: unknown;
  /** Numbers and texts, which may be nested: amounts, dimensions and properties. */
  data: unknown;
  /** Metrics beside those of `data`, as decimal text. */
  metrics?: Readonly<Record<string, string>>;
  /** Where the event came from: the property `event_source`. */
  origin?: unknown;
  /** The metric type of a field of `data`; undefined for fields that are none. Default: `metricOf`. */
  metric?: (path: string) => string | undefined;
};

/** How the events of a request are read. */
export type Reading = {
  caller: Caller;
  now: number;
  /** Properties that meters take amounts from: only those meters count fractions and negative amounts. */
  metered: ReadonlySet<string>;
};

const MAX_DEPTH = 4;
const MAX_PROPERTIES = 16;
const MAX_PROPERTY = 512;
const METRIC = /^[a-z][a-z0-9_]{0,63}$/;
/** Text that counts like a number. Longer ones are ids. */
const COUNT_TEXT = /^(?:0|[1-9]\d{0,14})$/;
/** Values of a property that a meter can count. */
const METERED = /^-?\d{1,15}(?:\.\d{1,9})?$/;
const SECRET = /(?:^|\.)(?:api_?key|authorization|secret|password|access_?token)$/i;
const USER = new Set(['user', 'user_id', 'userId']);

/**
 * Turns a foreign event into an item. Numbers become metrics named like their field, in snake case. Texts and numbers
 * become properties as long as there is room. `model`, `provider` and `user` become dimensions.
 */
export function itemOf(event: ForeignEvent, reading: Reading): Item {
  let id: string | null = null;
  try {
    id = identityOf(event);
    return { entry: entryOf(event, id, reading) };
  } catch (error) {
    if (error instanceof TallyError) return { refused: error, id };
    throw error;
  }
}

function identityOf({ family, identity }: ForeignEvent): string {
  const parts = identity.map(textOf);
  const last = parts.at(-1);
  if (parts.some((part) => !part) || !present(last)) throw invalid('The event has no id.');
  return idOf(`${family}:${parts.join(' ')}`);
}

function entryOf(event: ForeignEvent, id: string, { caller, now, metered }: Reading): UsageEntry {
  const { customer, time, type, origin, data, metrics: more = {}, metric = metricOf } = event;
  const named = present(textOf(customer));
  const merchantId = named === null ? caller.merchantId : merchantOf(named);
  if (merchantId === null) throw invalid('The event names no customer, and the key is bound to no merchant.');
  const kind = textOf(type);
  if (!kind) throw invalid('The event has no type.');
  const metrics: Record<string, string> = { ...more };
  const amounts: [string, string][] = [];
  const texts: [string, string | boolean][] = [];
  const numbers: [string, string][] = [];
  const dimensions: Partial<Record<'model' | 'provider' | 'userId', string>> = {};
  for (const [path, value] of leavesOf(data)) {
    if (typeof value === 'boolean') {
      texts.push([path, value]);
      continue;
    }
    const isNumber = value.startsWith(NUMBER_MARK);
    const text = isNumber ? plainNumber(value.slice(1)) : value;
    const dimensionName = path === 'model' || path === 'provider' ? path : USER.has(path) ? 'userId' : undefined;
    if (dimensionName) {
      dimensions[dimensionName] = text;
      continue;
    }
    const isMetered = metered.has(path) && METERED.test(text);
    (isMetered ? amounts : isNumber ? numbers : texts).push([path, text]);
    if (!COUNT_TEXT.test(text) && (isMetered || !isNumber)) continue;
    const name = metric(path);
    if (name === undefined || RESERVED_METRICS.includes(name)) continue;
    if (!METRIC.test(name)) {
      if (!isNumber) continue;
      throw invalid(`The field ${path.slice(0, 80)} has a number, but its name cannot be that of a metric type.`);
    }
    if (Object.hasOwn(metrics, name) && !Object.hasOwn(more, name))
      throw invalid(`Two fields have amounts of the metric type ${name}.`);
    metrics[name] ??= text;
  }
  return {
    id,
    merchantId,
    time: timeOf(time, now),
    metrics,
    ...dimension('model', dimensions.model),
    ...dimension('provider', dimensions.provider),
    ...dimension('userId', dimensions.userId),
    properties: propertiesOf([
      [EVENT_TYPE_PROPERTY, kind],
      ...amounts,
      ['event_source', textOf(origin)],
      ...texts,
      ...numbers,
    ]),
  };
}

/** Returns text and numbers as text; undefined for anything else. */
export function textOf(value: unknown): string | undefined {
  if (typeof value !== 'string') return undefined;
  return value.startsWith(NUMBER_MARK) ? value.slice(1) : value;
}

export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export type Fields = Readonly<Record<string, unknown>>;

/** Returns the fields of an object; none of anything else. */
export const fieldsOf = (value: unknown): Fields => (isRecord(value) ? value : {});

export const invalid = (message: string) => new TallyError('INVALID_ENTRY', message);

/** Returns the metric type of a field: `inputTokens` and `usage.input` become `input_tokens` and `usage_input`. */
export const metricOf = (path: string): string =>
  path
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^A-Za-z0-9]+/g, '_')
    .replace(/^_+(?=.)/, '')
    .toLowerCase();

/** Yields the values in an object and in objects within it, each with its path. Skips arrays. */
function* leavesOf(value: unknown, prefix = '', depth = 0): Generator<[path: string, value: string | boolean]> {
  if (!isRecord(value) || depth === MAX_DEPTH) return;
  for (const [key, each] of Object.entries(value)) {
    const path = prefix + key;
    if (typeof each === 'string' || typeof each === 'boolean') yield [path, each];
    else yield* leavesOf(each, `${path}.`, depth + 1);
  }
}

function propertiesOf(given: readonly [string, string | boolean | undefined][]): Record<string, string | boolean> {
  const properties: Record<string, string | boolean> = {};
  let count = 0;
  for (const [name, value] of given) {
    if (count === MAX_PROPERTIES) break;
    if (value === undefined || value === '' || !isPropertyName(name) || SECRET.test(name)) continue;
    // Long text is a prompt or a document, and no dimension.
    if (typeof value === 'string' && value.length > MAX_PROPERTY) continue;
    if (Object.hasOwn(properties, name)) continue;
    properties[name] = typeof value === 'string' ? decoration(value) : value;
    count++;
  }
  return properties;
}

const PLAIN_NAME = /^[\p{L}\p{N}_.:$@/ -]{1,64}$/u;
const isPropertyName = (name: string) =>
  PLAIN_NAME.test(name) && name !== '__proto__' && Buffer.byteLength(name) <= 256 && name === name.normalize('NFC');

/** Returns an ISO 8601 time as entries have it; RFC 3339 also allows `t` and `z`. */
function timeOf(value: unknown, now: number): string {
  const text = textOf(value);
  if (text === undefined || text === '') {
    if (value !== undefined && value !== null && value !== '') throw invalid('The time of the event is not text.');
    return new Date(now).toISOString();
  }
  const time = text.trim().replace(/[tz]/g, (letter) => letter.toUpperCase());
  if (parseTime(time) === undefined)
    throw invalid(`The time is not ISO 8601 text, such as 2026-11-26T06:00:00Z: ${text.slice(0, 40)}`);
  return time;
}

/** Writes a number of JSON without an exponent, and -0 as 0; unchanged if it is negative or too long for an amount. */
export function plainNumber(text: string): string {
  if (!/[-eE.]/.test(text)) return text;
  for (const decimals of [0, 9]) {
    const read = unitsOf(text, decimals);
    if (!read) return text;
    if (read.rest) continue;
    const digits = String(read.units).padStart(decimals + 1, '0');
    const [whole, fraction] = [digits.slice(0, digits.length - decimals), digits.slice(digits.length - decimals)];
    const cut = fraction.replace(/0+$/, '');
    return cut === '' ? whole : `${whole}.${cut}`;
  }
  return text;
}

/** Returns Unix seconds, whole or with a fraction, as an ISO 8601 time; undefined if invalid. */
export function timeOfSeconds(text: string): string | undefined {
  if (!/^\d{1,11}(?:\.\d{1,30})?$/.test(text)) return undefined;
  const ms = Number(unitsOf(text, 3)!.floor);
  return new Date(ms).toISOString();
}
