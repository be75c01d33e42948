import { z } from 'zod';

/** Text that no contract may take: Postgres and JSON cannot store the first two, and nothing bounds the third. */
export const UNSTORABLE_TEXTS: readonly string[] = ['a\u0000b', 'a\ud800', 'x'.repeat(20_000)];

/** Text that a contract may take or reject, and that must not break what is behind it. */
const ODD_TEXTS: readonly string[] = [
  '',
  'a\u0001b',
  'a\tb',
  'a\u200bb',
  'e\u0301',
  '💥👩‍👩‍👧',
  'constructor',
  '__proto__',
  "'; drop table usage_daily --",
  '%',
  '{a}',
  'é'.repeat(250),
  '-0',
  '1e400',
  '9'.repeat(40),
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

/** The first of these that a string schema takes stands for a sound value of it. */
const SOUND_TEXTS = [
  'a',
  '1',
  '2026-03-01',
  '2026-03-01T10:00:00Z',
  'UTC',
  '7f3d1c1e-0000-4000-8000-000000000000',
  'requests',
  'http://127.0.0.1:9/',
];

/** An input that fits the schema, with every optional field given. */
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

/** The sound input once for each place and each of `values`, with that value in that place; also as keys of records. */
export function* inputsWith(schema: z.ZodType, values: readonly unknown[]): Generator<unknown> {
  yield* values;
  const part = schema as unknown as Part;
  const { def } = part;
  const inner = innerOf(part);
  if (inner) {
    yield* inputsWith(inner, values);
  } else if (def.type === 'object') {
    const sound = soundInput(schema) as object;
    for (const [field, each] of Object.entries(def.shape!)) {
      for (const value of inputsWith(each, values)) yield { ...sound, [field]: value };
    }
  } else if (def.type === 'array') {
    for (const value of inputsWith(def.element!, values)) yield [value];
  } else if (def.type === 'record') {
    const [key, sound] = [String(soundInput(def.keyType!)), soundInput(def.valueType!)];
    for (const value of values) {
      if (typeof value === 'string') yield Object.fromEntries([[value, sound]]);
    }
    for (const value of inputsWith(def.valueType!, values)) yield { [key]: value };
  } else if (def.type === 'union') {
    for (const option of def.options!) yield* inputsWith(option, values);
  }
}

/** Hostile inputs of a procedure: bad text and values in every place. */
export const hostileInputs = (schema: z.ZodType): Generator<unknown> =>
  inputsWith(schema, [...UNSTORABLE_TEXTS, ...ODD_TEXTS, ...ODD_VALUES]);

/** Every string schema inside a schema. */
export function* stringSchemas(schema: z.ZodType): Generator<z.ZodType> {
  const part = schema as unknown as Part;
  const { def } = part;
  if (def.type === 'string') yield schema;
  const inner = innerOf(part);
  const parts = inner
    ? [inner]
    : [...Object.values(def.shape ?? {}), def.element, def.keyType, def.valueType, ...(def.options ?? [])];
  for (const each of parts) if (each) yield* stringSchemas(each);
}

/** What this file reads of a schema: zod's public `def`, of any type. */
type Part = {
  def: {
    type: string;
    shape?: Record<string, z.ZodType>;
    element?: z.ZodType;
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

/** The schema that a wrapper is about: of an optional its own, of a pipe the side that is no function. */
function innerOf({ def }: Part): z.ZodType | undefined {
  if (def.type !== 'pipe') return def.innerType;
  return def.in instanceof z.ZodTransform ? def.out : def.in;
}
