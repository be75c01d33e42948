import { z } from 'zod';

/** Text that no contract may accept: Postgres and JSON cannot store the first two, and the third is unbounded. */
export const UNSTORABLE_TEXTS: readonly string[] = ['a\u0000b', 'a\ud800', 'x'.repeat(20_000)];

/** Text that a contract may accept or reject, and that must not break its readers: URLs, JSON, SQL. */
const SYNTAX_TEXTS: readonly string[] = [
  '',
  'a\u0001b',
  '💥👩‍👩‍👧',
  '__proto__',
  "'; drop table usage_daily --",
  '%',
  '{a}',
  '9'.repeat(40),
];

/** Odd values for fields that are stored and computed with. */
const ODD_TEXTS: readonly string[] = [
  ...SYNTAX_TEXTS,
  'a\tb',
  'a\u200bb',
  'e\u0301',
  'constructor',
  'é'.repeat(250),
  '-0',
  '1e400',
  '999999999999999.999999999',
  '0999-12-31',
  '1000-01-01',
  '9998-12-31',
  '2026-02-29',
  '1000-01-01T00:00:00+14:00',
  '2026-03-01T24:00:00Z',
  'unknown',
  '(other)',
];

const ODD_VALUES: readonly unknown[] = [
  undefined,
  null,
  -1,
  1e21,
  2 ** 53,
  true,
  [],
  {},
  [null],
  JSON.parse('{"__proto__":"x"}'),
];

/** A string schema gets the first of these that it accepts as a valid value. */
const SOUND_TEXTS = [
  'a',
  '1',
  '2026-03-01',
  '2026-03-01T10:00:00Z',
  'UTC',
  '7f3d1c1e-0000-4000-8000-000000000000',
  'requests',
  'http://127.0.0.1:9/',
  'model',
  'model=gpt-4o',
  `whsec_${'A'.repeat(32)}`,
  'start_time,amount_value,amount_currency\n1730419200,1,usd',
];

/** Returns an input that fits the schema, with every optional field. */
export function soundInput(schema: z.ZodType): unknown {
  const part = schema as unknown as Part;
  const { def } = part;
  const inner = innerOf(part);
  if (inner) return soundInput(inner);
  switch (def.type) {
    case 'object':
      return Object.fromEntries(Object.entries(def.shape!).map(([field, each]) => [field, soundInput(each)]));
    case 'array':
      return [soundInput(def.element!)];
    case 'tuple':
      return def.items!.map(soundInput);
    case 'record':
      return { [String(soundInput(def.keyType!))]: soundInput(def.valueType!) };
    case 'union':
      return soundInput(def.options![0]!);
    case 'boolean':
      return true;
    case 'null':
      return null;
    case 'enum':
      return Object.values(def.entries!)[0];
    case 'literal':
      return def.values![0];
    case 'number':
      return 1;
    case 'string': {
      const sound = SOUND_TEXTS.find((each) => schema.safeParse(each).success);
      if (sound === undefined) throw new Error('No sample fits a string schema: add one to SOUND_TEXTS');
      return sound;
    }
    default:
      throw new Error(`An input has a schema of the type "${def.type}": it takes anything, so it checks nothing`);
  }
}

/**
 * Returns the values to try in a place: all that its schema accepts, since those reach the code behind it, all that
 * cannot be stored, and one of each JSON type that the schema refuses.
 */
function telling(schema: z.ZodType, values: readonly unknown[]): unknown[] {
  const refused = new Set<string>();
  return values.filter((value) => {
    if (UNSTORABLE_TEXTS.includes(value as string) || schema.safeParse(value).success) return true;
    const type = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
    const first = !refused.has(type);
    refused.add(type);
    return first;
  });
}

/**
 * Yields each distinguishing one of `values`, then `sound` once for each place and value, with that value in that
 * place; also as keys of records. Places that `sound` lacks get a valid value first.
 */
export function* inputsWith(
  schema: z.ZodType,
  values: readonly unknown[],
  sound: unknown = soundInput(schema),
): Generator<unknown> {
  yield* telling(schema, values);
  yield* withinParts(schema, values, sound);
}

function* withinParts(schema: z.ZodType, values: readonly unknown[], sound: unknown): Generator<unknown> {
  const part = schema as unknown as Part;
  const { def } = part;
  const inner = innerOf(part);
  if (inner) {
    yield* withinParts(inner, values, sound);
  } else if (def.type === 'object') {
    for (const [field, each] of Object.entries(def.shape!)) {
      const own = (sound as Record<string, unknown>)[field];
      for (const value of inputsWith(each, values, own)) yield { ...(sound as object), [field]: value };
    }
  } else if (def.type === 'array') {
    const [own] = sound as unknown[];
    for (const value of inputsWith(def.element!, values, own)) yield [value];
  } else if (def.type === 'tuple') {
    const given = sound as unknown[];
    for (const [index, each] of def.items!.entries()) {
      for (const value of inputsWith(each, values, given[index])) yield given.with(index, value);
    }
  } else if (def.type === 'record') {
    const [key, own] = Object.entries(sound as object)[0] ?? [String(soundInput(def.keyType!))];
    const kept = own ?? soundInput(def.valueType!);
    for (const value of values) {
      if (typeof value === 'string') yield Object.fromEntries([[value, kept]]);
    }
    for (const value of inputsWith(def.valueType!, values, kept)) yield { [key]: value };
  } else if (def.type === 'union') {
    for (const option of def.options!) {
      yield* withinParts(option, values, option.safeParse(sound).success ? sound : soundInput(option));
    }
  }
}

/** Yields hostile inputs of a procedure: bad text and values, and those of `more`, in every place of a valid input. */
export const hostileInputs = (schema: z.ZodType, sound?: unknown, more: readonly unknown[] = []): Generator<unknown> =>
  inputsWith(schema, [...UNSTORABLE_TEXTS, ...ODD_TEXTS, ...ODD_VALUES, ...more], sound);

/** A request, and the input in it. */
export type HostileRequest = {
  sent: unknown;
  path: string;
  init: { method: string; headers?: Record<string, string>; body?: string };
};

/** Node refuses longer request lines by itself. */
const MAX_QUERY = 10_000;

/** Builds the tRPC call of a procedure with an input. Uses POST if the input does not fit a URL. */
export function callOf(name: string, kind: string, sent: unknown): HostileRequest {
  const body = JSON.stringify(sent) ?? '';
  if (kind === 'query' && body.length < MAX_QUERY)
    return { sent, path: `/trpc/${name}?input=${encodeURIComponent(body)}`, init: { method: 'GET' } };
  const headers: Record<string, string> = kind === 'query' ? { 'x-http-method': 'GET' } : {};
  return { sent, path: `/trpc/${name}`, init: { method: 'POST', headers, body } };
}

/**
 * Yields requests of a path beside tRPC: hostile text in every string of its input and as a field name, and unreadable
 * queries or bodies. GET sends the input as query parameters, POST as JSON.
 */
export function* hostileRequests(
  { method, path, fixed = {}, aliases = {} }: RestPath,
  schema: z.ZodType,
  given?: unknown,
): Generator<HostileRequest> {
  const sound = (given ?? soundInput(schema)) as object;
  const texts = [...UNSTORABLE_TEXTS, ...SYNTAX_TEXTS];
  const names = new Map(Object.entries(aliases).map(([alias, field]) => [field, alias]));
  const sent = function* (): Generator<unknown> {
    yield sound;
    yield* inputsWith(schema, texts, sound);
    for (const text of texts) yield Object.fromEntries([...Object.entries(sound), [text, 'a']]);
  };
  for (const input of sent()) {
    if (typeof input !== 'object' || input === null) {
      if (method === 'POST') yield { sent: input, path, init: { method, body: JSON.stringify(input) } };
      continue;
    }
    const fields = Object.entries(input).filter(([field]) => !Object.hasOwn(fixed, field));
    const named = Object.fromEntries(fields.map(([field, value]) => [names.get(field) ?? field, value]));
    if (method === 'POST') yield { sent: input, path, init: { method, body: JSON.stringify(named) } };
    else yield { sent: input, path: `${path}?${queryOf(named)}`, init: { method } };
  }
  for (const raw of method === 'POST' ? RAW_BODIES : RAW_QUERIES) {
    if (method === 'POST') yield { sent: raw, path, init: { method, body: raw } };
    else yield { sent: raw, path: `${path}?${raw}`, init: { method } };
  }
}

const RAW_BODIES = ['null', '7', '[]', '[null]', '{"a":', '{"a":1}}', '\u0000', '{"__proto__":null}'];
const RAW_QUERIES = ['%', '%00', '%ff=%c3%28', 'startDate=%ed%a0%80', 'startDate', '&&==&', '__proto__=a&__proto__=b'];

type RestPath = {
  method: 'GET' | 'POST';
  path: string;
  fixed?: Readonly<Record<string, string>>;
  aliases?: Readonly<Record<string, string>>;
};

function queryOf(fields: object): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    for (const each of Array.isArray(value) ? value : [value]) query.append(name, String(each));
  }
  return `${query}`.slice(0, MAX_QUERY);
}

/** Yields every string schema inside a schema. */
export function* stringSchemas(schema: z.ZodType): Generator<z.ZodType> {
  const part = schema as unknown as Part;
  const { def } = part;
  if (def.type === 'string') yield schema;
  const inner = innerOf(part);
  const parts = inner
    ? [inner]
    : [
        ...Object.values(def.shape ?? {}),
        def.element,
        ...(def.items ?? []),
        def.keyType,
        def.valueType,
        ...(def.options ?? []),
      ];
  for (const each of parts) if (each) yield* stringSchemas(each);
}

/** The parts of a schema that this file reads: zod's public `def`, of any type. */
type Part = {
  def: {
    type: string;
    shape?: Record<string, z.ZodType>;
    element?: z.ZodType;
    items?: z.ZodType[];
    keyType?: z.ZodType;
    valueType?: z.ZodType;
    options?: z.ZodType[];
    entries?: Record<string, unknown>;
    values?: unknown[];
    innerType?: z.ZodType;
    in?: z.ZodType;
    out?: z.ZodType;
  };
};

/** Returns the schema inside a wrapper: of an optional its inner one, of a pipe the side that is no function. */
function innerOf({ def }: Part): z.ZodType | undefined {
  if (def.type !== 'pipe') return def.innerType;
  return def.in instanceof z.ZodTransform ? def.out : def.in;
}
