import { z } from 'zod';
import { COST_DECIMALS, MAX_ENTRY_UNITS, parseQuantity } from './quantity.ts';
import { name, text } from './text.ts';
import { Time } from './time.ts';

/** The largest batch of `usage.record`. */
export const MAX_BATCH = 1000;

/** A merchant: any name without invisible characters, such as an e-mail address or a URL. */
export const MerchantId = name(128, 128)
  .refine((value) => value.length > 0, 'Expected at least 1 character')
  .refine((value) => value === value.trim(), 'Space at either end is not allowed')
  .meta({ examples: ['acme'] });
export const MetricType = z
  .string()
  .regex(
    /^[a-z][a-z0-9_]{0,63}$/,
    'Expected a lower-case letter and up to 63 more lower-case letters, digits or `_`, such as "prompt_tokens"',
  )
  .meta({ examples: ['prompt_tokens'] });

/** Text that programs print for a missing value. As an id it would merge all such events of a day into one. */
const NO_ID = /^\s*(?:none|null|nil|undefined|nan|unknown|\[object object\])?\s*$/i;

/** Returns true for text that stands for a missing value: blank, or `null`, `undefined`, `NaN` and the like. */
export const isMissingId = (id: string): boolean => NO_ID.test(id);

export const EntryId = z
  .string()
  .regex(/^[\x20-\x7e]{1,128}$/, 'Expected 1 to 128 printable ASCII characters')
  .refine((id) => !isMissingId(id), 'This text stands for a missing value; give each event an id of its own')
  .meta({ examples: ['req-7f3a'] });

/** A dimension as readers name it: the stored value, or `unknown` for events without one. */
export const Dimension = text(256).meta({ examples: ['ada'] });

/** Returns names that select stored ones: each as written and in NFC, as producers' names are stored. */
export const inBothForms = <T>(names: readonly T[]): T[] => [
  ...new Set(names.flatMap((name) => (typeof name === 'string' ? [name, name.normalize('NFC') as T] : [name]))),
];

/** Filter values of a dimension. */
export const DimensionValues = z
  .array(Dimension)
  .max(1000)
  .optional()
  .overwrite((values) => values && inBothForms(values));

/** The value that rollups have in place of values of a dimension beyond the limit of their day. */
export const OTHER = '(other)';

/** A dimension as producers send it. Absent, empty and `unknown` all mean that it is not known. */
export const SentDimension = name(256, 400)
  .refine((value) => value !== OTHER, `\`${OTHER}\` is what Tally calls values beyond a limit; leave it out`)
  .meta({ examples: ['ada'] });

/** A dimension that usage must have to match. `unknown` would match nothing: it is how answers name an absent one. */
export const MatchedDimension = SentDimension.refine(
  (value) => value !== 'unknown',
  '`unknown` stands for usage without a value and matches nothing; leave it out to match any',
);

/** The calls that one event stands for: a whole number from 1 to 10^15. */
export const Count = z.union([
  z.number().int().min(1).max(Number(MAX_ENTRY_UNITS)),
  z
    .string()
    .refine(
      (value) => /^\d+$/.test(value) && withinEntry('count', value) && value !== '0',
      'Expected a whole number from 1 to 10^15',
    ),
]);

/**
 * A record of at most `max` fields. A larger one is refused as a whole. A record would silently skip a field
 * `__proto__`, and one of two whose names are equal in NFC, so those are refused too.
 */
export const record = <K extends z.core.$ZodRecordKey, V extends z.ZodType>(max: number, key: K, value: V) => {
  const inner = z.record(key, value);
  return z.preprocess((given: z.input<typeof inner>, ctx) => {
    const refuse = (message: string) => ctx.addIssue({ code: 'custom', message });
    if (typeof given !== 'object' || given === null) return given;
    const names = Object.keys(given);
    if (names.length > max) refuse(`Expected at most ${max} fields`);
    else if (new Set(names.map((each) => each.normalize('NFC'))).size < names.length)
      refuse('Two fields have names that are the same in NFC');
    else if (Object.hasOwn(given, '__proto__')) refuse('__proto__ is not allowed');
    return given;
  }, inner);
};

/** An amount as decimal text, or as an exact JSON number: whole and below 2^53. */
const Amount = z
  .union([z.string(), z.number()], 'Expected a decimal string, such as "374"')
  .refine(
    (amount) => typeof amount === 'string' || Number.isSafeInteger(amount),
    'A JSON number must be whole and below 2^53; send a decimal string, such as "0.0023"',
  )
  .transform(String)
  .meta({ examples: ['374'] });

const Metrics = record(32, MetricType, Amount).superRefine((metrics, ctx) => {
  for (const [type, amount] of Object.entries(metrics)) {
    if (withinEntry(type, amount)) continue;
    const rule =
      type === 'cost'
        ? 'USD from 0 to 1000000 with at most 9 decimals'
        : 'a number from 0 to 10^15 with at most 9 decimals';
    ctx.addIssue({ code: 'custom', path: [type], message: `Expected ${rule}` });
  }
});

const Properties = record(
  16,
  name(64),
  z.union([text(512), z.number(), z.boolean()], 'Expected text, a number, true or false'),
);

const ENTRY_FIELDS = 'id, merchantId, time, metrics, userId, apiKey, model, provider, status, count and properties';

const unrecognized = (keys: readonly string[]) =>
  `Unrecognized key${keys.length > 1 ? 's' : ''}: ${keys.map((key) => JSON.stringify(key)).join(', ')}`;

/**
 * One event: usage of one call, or of `count` merged calls. Its identity is (merchant, UTC day of its time, id): a
 * retry with the same id and content counts once. Within 2 hours of midnight, the day of the first copy holds.
 */
export const UsageEntry = z.strictObject(
  {
    id: EntryId,
    merchantId: MerchantId,
    /** Default: the time of arrival. Send it: without it, a retry on a later day would be another event. */
    time: Time.optional(),
    /** Amounts by metric type, as decimal strings or whole JSON numbers; `cost` is in USD. */
    metrics: Metrics,
    userId: SentDimension.optional(),
    /** An alias or a hash of the key, never the secret. */
    apiKey: SentDimension.optional(),
    model: SentDimension.optional(),
    provider: SentDimension.optional(),
    status: z.enum(['success', 'failure']).optional(),
    count: Count.optional(),
    properties: Properties.optional(),
  },
  {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? `${unrecognized(issue.keys)}; an event has ${ENTRY_FIELDS}` : undefined,
  },
);
z.globalRegistry.add(UsageEntry, {
  examples: [
    {
      id: 'req-7f3a',
      merchantId: 'acme',
      time: '2026-11-20T10:00:00Z',
      metrics: { prompt_tokens: '374', completion_tokens: '44', cost: '0.0023' },
      userId: 'ada',
      model: 'gpt-4o',
      provider: 'openai',
    },
  ],
});
export type UsageEntry = z.input<typeof UsageEntry>;
/** An unchecked event; in the OpenAPI document it is a `UsageEntry`. */
export const AnyEntry = z.custom<UsageEntry>(() => true).meta({ $ref: '#/components/schemas/UsageEntry' });
/** A checked event: all amounts are decimal strings. */
export type CheckedEntry = z.output<typeof UsageEntry>;

/** Accepts any number of decimals: the registry of meters decides how many a metric type may have. */
function withinEntry(metricType: string, value: string): boolean {
  const units = parseQuantity(metricType, value, () => COST_DECIMALS);
  const max = metricType === 'cost' ? MAX_ENTRY_UNITS : MAX_ENTRY_UNITS * 10n ** BigInt(COST_DECIMALS);
  return units !== undefined && units <= max;
}
