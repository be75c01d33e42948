import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { DimensionValues, MerchantId } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Cursor, label, storable, text } from './text.ts';
import { Day, Drained, StoredDay, StoredTime } from './time.ts';

/** Providers whose exports Tally reads. */
export const BillProvider = z.enum(['openai', 'anthropic']);
export type BillProvider = z.infer<typeof BillProvider>;

/** cost: an export of amounts; usage: an export of tokens. A comparison uses both. */
export const BillKind = z.enum(['cost', 'usage']);
export type BillKind = z.infer<typeof BillKind>;

/**
 * What a bill charges for. `input`: prompt tokens that are neither read from a cache nor written to one; `output`:
 * completion tokens with reasoning; `other`: not tokens, such as web searches; `all`: a model without its classes.
 */
export const BillClass = z.enum(['input', 'cached_input', 'cache_write', 'output', 'requests', 'other', 'all']);
export type BillClass = z.infer<typeof BillClass>;

/** Why the bill and our numbers differ, where that can be known; `equal`: they do not. */
export const BillReason = z.enum([
  'equal',
  'rounding',
  'day_boundary',
  'quantity',
  'price',
  'quantity_and_price',
  'amount',
  'unpriced',
  'only_on_bill',
  'only_with_us',
  'unknown',
]);
export type BillReason = z.infer<typeof BillReason>;

/** The longest export that `bills.import` reads, in characters. */
export const MAX_BILL_FILE = 7_000_000;
/** The most lines of an export. */
export const MAX_BILL_LINES = 50_000;
/** The most bills that are kept. */
export const MAX_BILLS = 10_000;
/** The most days of an export, and of a comparison. */
export const MAX_BILL_DAYS = 366;
export const MAX_COMPARED_DAYS = 92;

export const Bill = z.object({
  id: z.string().meta({ examples: ['17'] }),
  provider: BillProvider,
  account: z.string(),
  kind: BillKind,
  /** The format of the export, such as `openai-costs-json`. */
  format: z.string(),
  startDate: StoredDay,
  endDate: StoredDay,
  /** Lines of the export. */
  lines: z.number().int(),
  /** Sum of the amounts in USD; null if the export has none. */
  amount: Quantity.nullable(),
  /** Sum of the tokens; null if the export has none. */
  tokens: Quantity.nullable(),
  /** Days that no newer bill of the same provider, account and kind covers: comparisons read only these. */
  daysInForce: z.number().int(),
  /** SHA-256 of the export, in hexadecimal. */
  fileHash: z.string(),
  createdAt: StoredTime,
  createdBy: z.string(),
});
export type Bill = z.infer<typeof Bill>;

const Place = z.object({
  /** Where it is in the export: `line 12` or `data[0].results[3]`. */
  place: z.string(),
  message: z.string(),
});

const Side = z.object({
  /** Tokens, or requests; null: unknown. */
  quantity: Quantity.nullable(),
  /** USD; null: unknown. */
  amount: Quantity.nullable(),
  /** USD for a million units, rounded to 9 decimals; null if either is unknown, or without a quantity. */
  unitPrice: Quantity.nullable(),
});

export const BillRow = z.object({
  date: StoredDay,
  /** The model as Tally metered it, else as the bill names it; for `other`, what the bill names. Empty: all models. */
  model: z.string(),
  /** The names of the model on the bill, and in our usage. */
  billModels: z.array(z.string()),
  ourModels: z.array(z.string()),
  class: BillClass,
  bill: Side,
  ours: Side,
  /** Bill less ours; null if a side is unknown. */
  difference: z.object({
    quantity: Quantity.nullable(),
    amount: Quantity.nullable(),
    /** The part of the amount that the other quantity makes at our price, and the rest; null if unknown. */
    byQuantity: Quantity.nullable(),
    byPrice: Quantity.nullable(),
  }),
  reason: BillReason,
  /** The reason in words. */
  message: z.string(),
});
export type BillRow = z.infer<typeof BillRow>;

/** Sums of known amounts; what is unknown on a side is not in them. */
const Sums = z.object({
  rows: z.number().int(),
  bill: Quantity,
  ours: Quantity,
  /** Bill less ours. */
  difference: Quantity,
  /** Rows without a known amount on the bill, and with us; requests mostly cost nothing, so they are not counted. */
  unknownOnBill: z.number().int(),
  unknownWithUs: z.number().int(),
});

/** Exports of providers and their comparison with our usage. Only for callers that are bound to no merchant. */
export const bills = {
  /**
   * Days of the export replace the same days of earlier exports of the same provider, account and kind. The same file
   * again changes nothing. An export with an unreadable line is not stored at all. Days that are not over are left out.
   * Changes nothing unless `dryRun` is false.
   */
  import: mutation({
    summary: "Reads a provider's export of usage or costs, and stores it as a bill.",
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        provider: BillProvider,
        /** A name of your own for the organisation at the provider, if there are several. */
        account: label(100).default('default'),
        /** The text of the export: JSON of the provider's API (a page, or an array of pages) or CSV of its console. */
        file: storable(MAX_BILL_FILE).refine((file) => /^(?:[\uFEFF\s]*[{[]|[^\n]*,)/.test(file), {
          error: 'Expected JSON, or CSV whose first line names its columns.',
        }),
        /** The days that the export covers; default: from its first to its last day. */
        startDate: Day.optional(),
        endDate: Day.optional(),
        dryRun: z.boolean().default(true),
      })
      .refine(({ startDate, endDate }) => (startDate === undefined) === (endDate === undefined), {
        error: 'Give both ends of the period, or none.',
        path: ['startDate'],
      })
      .meta({
        examples: [
          {
            provider: 'openai',
            file: '{"object":"page","data":[{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[{"object":"organization.costs.result","amount":{"value":0.06,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, input"}]}],"has_more":false,"next_page":null}',
          },
        ],
      }),
    output: z.object({
      dryRun: z.boolean(),
      /** read: a dry run; unchanged: this file is in force already; rejected: a line is unreadable. */
      status: z.enum(['read', 'imported', 'unchanged', 'rejected']),
      /** The bill; without an id if it is not stored. */
      bill: Bill.extend({ id: z.string().nullable() }),
      /** Earlier bills whose days it replaces. */
      replaces: z.array(z.object({ id: z.string(), days: z.number().int() })),
      /** True if the export says that more pages follow. */
      hasMore: z.boolean(),
      /** Days in the export that are not over, and so are left out. */
      unfinished: z.array(StoredDay),
      /** Lines that could not be read, at most 100 of them. */
      rejected: z.array(Place),
      rejectedLines: z.number().int(),
      /** Lines that equal an earlier one in every field, at most 100 of them. They count. */
      repeated: z.array(z.string()),
      repeatedLines: z.number().int(),
      /** Days between the first and the last that the export does not name. They count as days without usage. */
      missing: z.array(StoredDay),
    }),
  }),
  list: query({
    summary: 'Lists imported bills, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        provider: BillProvider.optional(),
        limit: z.number().int().min(1).max(200).default(50),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(Bill), nextCursor: z.string().nullable() }),
  }),
  /** Bills that it replaced are in force again. */
  remove: mutation({
    summary: 'Removes an imported bill.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: z.string().regex(/^\d{1,18}$/) }).meta({ examples: [{ id: '17' }] }),
    output: Bill,
  }),
  /**
   * Compares days that a bill covers, in UTC. Ours: usage of the providers in `ourProviders`, with the classes of
   * tokens and the cost at our prices where Tally priced it, else as one row `all` for each model.
   */
  compare: query({
    summary: 'Compares bills with our usage by day, model and class, and explains differences.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        provider: BillProvider,
        /** Absent: all accounts together. */
        account: label(100).optional(),
        startDate: Day,
        endDate: Day,
        /** Only usage of these merchants; absent: of all. */
        merchantIds: z.array(MerchantId).min(1).max(1000).optional(),
        /** Names of the provider in our usage; `unknown`: usage without a provider. Default: the provider. */
        ourProviders: DimensionValues,
        /** Filters of rows; sums are over the rows that remain. */
        models: z.array(text(256)).max(1000).optional(),
        classes: z.array(BillClass).max(10).optional(),
        reasons: z.array(BillReason).max(20).optional(),
        /** difference: the greatest difference of amounts first. */
        sortBy: z.enum(['day', 'difference']).default('day'),
        limit: z.number().int().min(1).max(1000).default(200),
        cursor: Cursor.optional(),
      })
      .meta({
        examples: [{ provider: 'openai', startDate: '2026-11-01', endDate: '2026-11-20', sortBy: 'difference' }],
      }),
    output: Drained.extend({
      rows: z.array(BillRow),
      /** Rows of all pages. */
      total: z.number().int(),
      totals: Sums,
      /** The same sums by reason: together they are `totals`. */
      byReason: z.array(Sums.extend({ reason: BillReason })),
      /** Days that are compared, and days of the range that no bill covers. */
      days: z.object({ compared: z.number().int(), withCosts: z.number().int(), withUsage: z.number().int() }),
      withoutBill: z.array(StoredDay),
      bills: z.array(z.string()),
      nextCursor: z.string().nullable(),
    }),
  }),
} as const;
