import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Dimension, MatchedDimension, MerchantId, MetricType, SentDimension } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, storable } from './text.ts';
import { Day, StoredDay, StoredTime, Time } from './time.ts';

/** A part of a call with its own price. `unit` prices a metric type; the others price model calls. */
export const PriceComponent = z.enum([
  'input',
  'cached_input',
  'cache_write',
  'output',
  'reasoning',
  'request',
  'unit',
]);
export type PriceComponent = z.infer<typeof PriceComponent>;

/** The largest number of active prices. */
export const MAX_PRICES = 50_000;
/** The longest file that `prices.import` accepts, in characters. */
const MAX_FILE = 7_000_000;

/** USD, exact: at most 12 digits before and 12 after the point. */
const UsdAmount = z
  .string()
  .regex(
    /^(0|[1-9]\d{0,11})(\.\d{1,12})?$/,
    'Expected USD as a decimal string, such as "2.50", with at most 12 decimals',
  )
  .meta({ examples: ['2.5'] });

const Whole = (max: number) => z.number().int().min(0).max(max);

/** What a price applies to: an event must match every field present. */
const PriceKey = {
  /** Absent: any provider. */
  provider: MatchedDimension.optional(),
  /** A model, or a pattern in which `*` stands for any text; absent: any model. */
  model: MatchedDimension.optional(),
  /** The metric type that `unit` prices. */
  meter: MetricType.optional(),
  /** A negotiated rate of one merchant. It wins over general prices. */
  merchantId: MerchantId.optional(),
  component: PriceComponent,
  /** The price applies to calls with more prompt tokens than this; the highest that fits wins. */
  overPromptTokens: Whole(1_000_000_000).optional(),
};

/** Metric types that `unit` cannot price, and what does. */
const PRICED_OTHERWISE: Readonly<Record<string, string>> = {
  prompt_tokens: 'use the components input, cached_input and cache_write',
  completion_tokens: 'use the components output and reasoning',
  total_tokens: 'use the components input and output',
  requests: 'use the component request',
  failed_requests: 'the component request prices calls that did not fail',
  cost: 'cost is in USD already',
};

export const Price = z.object({
  id: z.string().meta({ examples: ['17'] }),
  provider: z.string().nullable(),
  model: z.string().nullable(),
  meter: z.string().nullable(),
  merchantId: z.string().nullable(),
  component: PriceComponent,
  overPromptTokens: z.number().int(),
  /** USD for `per` units. */
  amount: Quantity,
  per: z.number().int(),
  validFrom: StoredTime,
  validTo: StoredTime.nullable(),
  /** Origin of the price: `set`, `genai-prices` or `litellm`. */
  source: z.string(),
  createdAt: StoredTime,
  createdBy: z.string(),
  /** The price list version that added it, and the one that removed or replaced it. */
  addedIn: z.string(),
  removedIn: z.string().nullable(),
});
export type Price = z.infer<typeof Price>;

const Version = z.string().meta({ description: 'A version of the price list.', examples: ['17'] });

/** Classes of tokens as providers bill them: reasoning is output. */
export const TOKEN_CLASSES = ['input', 'cached_input', 'cache_write', 'output'] as const;
export type TokenClass = (typeof TOKEN_CLASSES)[number];
const CLASSES = { input: Quantity, cached_input: Quantity, cache_write: Quantity, output: Quantity };

/** What Tally priced, or tried to, on a day: sums of a provider and model by class. */
export const PricedClasses = z.object({
  date: StoredDay,
  provider: z.string(),
  model: z.string(),
  events: Quantity,
  requests: Quantity,
  tokens: z.object(CLASSES),
  /** USD, with re-ratings. */
  cost: Quantity,
  /**
   * The same cost by class, `requests` is what calls cost: together they are `cost`. Null where classes do not make it,
   * such as after a change of prices within the day or without re-rating.
   */
  costs: z.object({ ...CLASSES, requests: Quantity }).nullable(),
  /** Events whose model has no price. */
  unpriced: Quantity,
});
export type PricedClasses = z.infer<typeof PricedClasses>;

/** Models whose usage has no price. */
const Unpriced = z.object({
  merchantId: z.string(),
  provider: z.string().nullable(),
  model: z.string().nullable(),
  events: Quantity,
  promptTokens: Quantity,
  completionTokens: Quantity,
  firstTime: StoredTime,
  lastTime: StoredTime,
});

const Rerated = z.object({
  merchantId: z.string(),
  date: StoredDay,
  provider: z.string().nullable(),
  model: z.string().nullable(),
  events: z.number().int(),
  /** Events without a price in the list; their cost stays as it is. */
  unpriced: z.number().int(),
  old: Quantity,
  new: Quantity,
  difference: Quantity,
});

/** Prices by model and token class, or by metric type. Tally prices events that are sent without a cost. */
export const prices = {
  /**
   * Replaces the price of the same key and `validFrom` for future events. Priced events keep their cost, see
   * `prices.rerate`.
   */
  set: mutation({
    summary: 'Sets a price that holds from a time on.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        ...PriceKey,
        amount: UsdAmount,
        /** Units that `amount` pays for. */
        per: z.number().int().min(1).max(1_000_000_000_000).default(1),
        validFrom: Time,
        /** The first moment at which it is no longer valid. */
        validTo: Time.optional(),
      })
      .refine(({ component, meter }) => (component === 'unit') === (meter !== undefined), {
        error: '`unit` needs a meter, and the other components take none.',
        path: ['meter'],
      })
      .superRefine(({ meter = '' }, context) => {
        const instead = Object.hasOwn(PRICED_OTHERWISE, meter) ? PRICED_OTHERWISE[meter] : undefined;
        if (instead)
          context.addIssue({ code: 'custom', path: ['meter'], message: `${meter} has no unit price: ${instead}.` });
      })
      .refine(({ validFrom, validTo }) => validTo === undefined || Date.parse(validTo) > Date.parse(validFrom), {
        error: 'validTo must be after validFrom.',
        path: ['validTo'],
      })
      .meta({
        examples: [
          {
            provider: 'openai',
            model: 'gpt-4o',
            component: 'input',
            amount: '2.5',
            per: 1_000_000,
            validFrom: '2026-01-01T00:00:00Z',
          },
        ],
      }),
    output: Price,
  }),
  list: query({
    summary: 'Lists prices in order of their ids.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        provider: SentDimension.optional(),
        model: SentDimension.optional(),
        meter: MetricType.optional(),
        merchantId: MerchantId.optional(),
        /** Includes removed and replaced prices. */
        includeRemoved: z.boolean().default(false),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(Price), version: Version, nextCursor: z.string().nullable() }),
  }),
  /** Events priced with it keep their cost. Removing it again changes nothing. */
  remove: mutation({
    summary: 'Removes a price from the list; events that it priced stay as they are.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: z.string().regex(/^\d{1,18}$/) }).meta({ examples: [{ id: '17' }] }),
    output: Price,
  }),
  /**
   * Makes the prices of the models that the source names hold from `validFrom` on. Prices with the same amounts stay,
   * others are added or replaced, and what the source no longer has for these models ends. `skipped` names models whose
   * prices do not fit the list, in whole or in part, such as those that depend on the time of day.
   */
  import: mutation({
    summary: 'Imports list prices from `@pydantic/genai-prices` or from a cost map file of LiteLLM.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        source: z.enum(['genai-prices', 'litellm']),
        /** For LiteLLM: the text of `model_prices_and_context_window.json`. */
        file: storable(MAX_FILE).optional(),
        /** Limits the import to these providers; the default of genai-prices is the large ones. */
        providers: z.array(SentDimension).min(1).max(100).optional(),
        /** Start of validity. A later date in the source wins. */
        validFrom: Time,
        /** Returns what the import would do, and changes nothing. */
        dryRun: z.boolean().default(false),
      })
      .refine(({ source, file }) => (source === 'litellm') === (file !== undefined), {
        error: 'litellm needs the text of its cost map, and genai-prices takes none.',
        path: ['file'],
      })
      .meta({ examples: [{ source: 'genai-prices', providers: ['openai'], validFrom: '2026-01-01T00:00:00Z' }] }),
    output: z.object({
      added: z.number().int(),
      replaced: z.number().int(),
      unchanged: z.number().int(),
      /** Prices of the named models that an earlier import had and this one does not: they end at `validFrom`. */
      ended: z.number().int(),
      /** At most 1,000 of them, with the reason. */
      skipped: z.array(z.object({ model: z.string(), reason: z.string() })),
      /** All skipped models, also those that are not listed. */
      skippedCount: z.number().int(),
      /**
       * Prices that imported models have beside those that the list keeps, and how many models have them: of audio,
       * images, one-hour cache writes, other service tiers, regions. Calls of these kinds cost something else.
       */
      unread: z.array(z.object({ price: z.string(), models: z.number().int() })),
      version: Version,
    }),
  }),
  /**
   * Prices events in the journal again, by the current list, if Tally priced them or knew no price. Skips voided
   * events. Applies the differences as adjustments, by user, API key, model, provider and day. A repeat adds nothing;
   * after an interruption the next call continues. Changes nothing unless `dryRun` is false.
   */
  rerate: mutation({
    summary: 'Prices recorded events again by the list of now, and reports or applies the differences.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      startDate: Day,
      endDate: Day,
      merchantIds: z.array(MerchantId).max(1000).optional(),
      dryRun: z.boolean().default(true),
    }),
    output: z.object({
      version: Version,
      dryRun: z.boolean(),
      /** False if pending events could not be flushed: call it again. */
      complete: z.boolean(),
      /** By merchant, day and model, with rows that have no difference; at most 10,000. */
      rows: z.array(Rerated),
      /** True if there are more rows: those with the greatest differences are listed. Sums are of all. */
      truncated: z.boolean(),
      old: Quantity,
      new: Quantity,
      difference: Quantity,
      /** Adjustments made by this call. */
      adjustments: z.number().int(),
    }),
  }),
  /** For `bills.compare` of analytics-api. An empty provider or model: events without one. */
  classes: query({
    summary: 'Returns what Tally priced by day, provider, model and class of tokens.',
    access: 'internal',
    platform: true,
    input: z.strictObject({
      startDate: Day,
      endDate: Day,
      providers: z.array(Dimension).max(1000),
      merchantIds: z.array(MerchantId).max(1000).optional(),
    }),
    output: z.object({ rows: z.array(PricedClasses) }),
  }),
  /** From the journal, so only within its retention. */
  unpriced: query({
    summary: 'Lists models with usage that no price was known for, most events first.',
    access: 'admin',
    input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: z.array(MerchantId).max(1000).optional() }),
    /** `truncated`: there are more than these 1,000. */
    output: z.object({ rows: z.array(Unpriced), truncated: z.boolean() }),
  }),
} as const;
