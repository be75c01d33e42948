import { z } from 'zod';
import { TimeZone } from './analytics.ts';
import { mutation, query } from './contract.ts';
import { AnyEntry, EntryId, MatchedDimension, MerchantId, record, SentDimension, UsageEntry } from './entry.ts';
import { MeterKey } from './meters.ts';
import { DecimalText, Quantity } from './quantity.ts';
import { Cursor, label, name, SearchText, Uuid } from './text.ts';
import { StoredTime } from './time.ts';

/** The largest number of active budgets. */
export const MAX_BUDGETS = 5_000;

/** The largest number of users and API keys with a team that `budgets.reserve` knows. */
export const MAX_TEAM_MEMBERS = 100_000;

/** The largest number of budgets that `budgets.status` takes by their ids. */
export const MAX_STATUS_IDS = 1_000;

/** The largest number of reservations, or settlements, per call. */
export const MAX_RESERVATIONS_PER_CALL = 200;

const Measure = z.enum(['cost', 'requests', 'tokens']);
const Period = z.enum(['hour', 'day', 'week', 'month', 'total']);

/** The usage that a budget covers: an event must match every field present. */
const Scope = z.strictObject({
  merchantId: MerchantId.optional(),
  /** A team of the directory: the team of the event's API key, else of its user. */
  team: MatchedDimension.optional(),
  userId: MatchedDimension.optional(),
  apiKey: MatchedDimension.optional(),
  model: MatchedDimension.optional(),
});

const Changeable = {
  name: label(100),
  /** USD for cost; decimals up to the scale of a meter; else a whole number. */
  limit: DecimalText,
  /** hard: `budgets.reserve` refuses beyond the limit; soft: it never refuses. */
  enforcement: z.enum(['soft', 'hard']),
  /** The answer of `budgets.reserve` for a hard budget while its store is unavailable. */
  whenUnavailable: z.enum(['allow', 'refuse']),
  /** Percentages of the limit at which alerts fire. */
  thresholds: z.array(z.number().int().min(1).max(1000)).max(10),
};

const Fields = z.strictObject({
  name: Changeable.name.optional(),
  scope: Scope.default({}),
  /** Give `measure` or `meter`. */
  measure: Measure.optional(),
  /**
   * A meter that adds up, SUM or COUNT: the merchant's own, else the one for all merchants, or a built-in one. The
   * budget keeps its definition.
   */
  meter: MeterKey.optional(),
  limit: Changeable.limit,
  period: Period,
  /** The time zone in which hours, days, weeks (from Monday) and months begin. */
  timeZone: TimeZone.default('UTC'),
  enforcement: Changeable.enforcement,
  whenUnavailable: Changeable.whenUnavailable.default('allow'),
  thresholds: Changeable.thresholds.default([]),
});
export type BudgetFields = z.output<typeof Fields>;

/** What a budget is about; null for any. */
const BudgetScope = z.object({
  merchantId: z.string().nullable(),
  team: z.string().nullable(),
  userId: z.string().nullable(),
  apiKey: z.string().nullable(),
  model: z.string().nullable(),
});

export const Budget = z.object({
  id: z.string(),
  name: z.string(),
  scope: BudgetScope,
  /** Null for a budget on a meter. */
  measure: Measure.nullable(),
  meter: z.string().nullable(),
  /** The unit of its amounts: USD, requests, tokens, or that of the meter. */
  unit: z.string(),
  limit: Quantity,
  period: Period,
  timeZone: z.string(),
  enforcement: z.enum(['soft', 'hard']),
  whenUnavailable: z.enum(['allow', 'refuse']),
  thresholds: z.array(z.number().int()),
  createdAt: StoredTime,
  createdBy: z.string(),
  removedAt: StoredTime.nullable(),
});
export type Budget = z.infer<typeof Budget>;

export const BudgetStatus = z.object({
  budgetId: z.string(),
  name: z.string(),
  scope: BudgetScope,
  periodStart: StoredTime,
  /** Null for `total`. */
  periodEnd: StoredTime.nullable(),
  limit: Quantity,
  /** Counted spend, and accepted spend that is not counted yet. */
  spent: Quantity,
  /** Reserved amounts that are not settled, released or expired. */
  reserved: Quantity,
  /** limit − spent − reserved; negative beyond the limit. */
  remaining: Quantity,
  /** spent / limit, rounded to 2 decimals; null for a limit of 0. */
  percent: z.number().nullable(),
  /** False while Redis is unavailable or being rebuilt: reservations and pending events are then missing. */
  complete: z.boolean(),
});
export type BudgetStatus = z.infer<typeof BudgetStatus>;

/** `merchant/id`; whoever has it may settle or release the reservation. */
const ReservationId = name(600).meta({ examples: ['acme/call-7f3a'] });

const Amounts = z.strictObject({
  cost: DecimalText.optional(),
  requests: DecimalText.optional(),
  tokens: DecimalText.optional(),
  /** By the key of a meter. A budget on a meter takes part only in requests that name its meter. */
  meters: record(8, MeterKey, DecimalText).optional(),
});

const Intended = {
  merchantId: MerchantId,
  userId: SentDimension.optional(),
  apiKey: SentDimension.optional(),
  model: SentDimension.optional(),
};

const Reserve = z.strictObject({
  id: EntryId,
  ...Intended,
  /** The most that the usage may amount to; `requests` is 1 by default. */
  amounts: Amounts,
  ttlSeconds: z.number().int().min(1).max(86_400).default(300),
});
export type ReserveRequest = z.output<typeof Reserve>;

const Reserved = z.object({
  allowed: z.boolean(),
  /** Null if the reservation was refused. */
  reservationId: z.string().nullable(),
  remaining: z.array(z.object({ budgetId: z.string(), remaining: Quantity })),
  refusedBy: z.array(z.string()),
  expiresAt: StoredTime.nullable(),
  /** True if the store of budgets was unavailable, so each budget's setting decided. */
  degraded: z.boolean(),
});
export type Reserved = z.infer<typeof Reserved>;

const Checked = Reserved.pick({ allowed: true, remaining: true, refusedBy: true, degraded: true });
export type Checked = z.infer<typeof Checked>;

const Settle = z.strictObject({ reservationId: ReservationId, entry: UsageEntry.optional() });

const Settled = z.object({
  /**
   * False if the reservation had already ended, expired or been lost, and while the store of budgets is unavailable: then
   * the reservation ends once that is available.
   */
  settled: z.boolean(),
  accepted: z.number().int(),
  duplicates: z.number().int(),
});
export type Settled = z.infer<typeof Settled>;

/** The error of one item of a call, with the code that a call of its own would return. */
const ItemError = z.object({ code: z.string(), message: z.string() });
const itemOf = <Output extends z.ZodType>(output: Output) =>
  z.union([z.object({ result: output, error: z.null() }), z.object({ result: z.null(), error: ItemError })]);
const many = <Input extends z.ZodType>(input: Input) => z.array(input).min(1).max(MAX_RESERVATIONS_PER_CALL);

/** Limits on usage. Recording never refuses or waits for a budget; only `reserve` refuses. */
export const budgets = {
  /** Usage of the current period counts from the start. */
  create: mutation({
    summary: 'Creates a budget: a limit on a measure for a scope and period.',
    access: 'admin',
    merchants: 'each',
    input: Fields.refine(({ measure, meter }) => (measure === undefined) !== (meter === undefined), {
      error: 'Expected measure or meter',
      path: ['measure'],
    }).meta({
      examples: [
        {
          scope: { merchantId: 'acme' },
          measure: 'cost',
          limit: '50',
          period: 'month',
          enforcement: 'hard',
          thresholds: [80, 100],
        },
      ],
    }),
    output: Budget,
  }),
  update: mutation({
    summary: 'Changes the limit, name, thresholds or enforcement of a budget.',
    access: 'admin',
    merchants: 'own',
    input: z.strictObject({ id: Uuid, ...z.strictObject(Changeable).partial().shape }),
    output: Budget,
  }),
  get: query({
    summary: 'Returns a budget.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({ id: Uuid }),
    output: Budget,
  }),
  list: query({
    summary: 'Lists budgets, oldest first.',
    access: 'read',
    input: z
      .strictObject({
        merchantId: MerchantId.optional(),
        /** A part of the name, or of an id in the scope, in any case. */
        search: SearchText.optional(),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(Budget), nextCursor: z.string().nullable() }),
  }),
  /** Removing a budget again changes nothing. */
  remove: mutation({
    summary: 'Removes a budget.',
    access: 'admin',
    merchants: 'own',
    input: z.strictObject({ id: Uuid }),
    output: Budget,
  }),
  /** All given filters hold at once. */
  status: query({
    summary: 'Returns what is spent and reserved of budgets in their current period.',
    access: 'read',
    input: z
      .strictObject({
        id: Uuid.optional(),
        /** Ids that no active budget has are left out of the answer. */
        ids: z.array(Uuid).min(1).max(MAX_STATUS_IDS).optional(),
        merchantId: MerchantId.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(BudgetStatus) }),
  }),
  /**
   * Reserves amounts in all matching budgets, or in none. The same id repeats its answer while the reservation is
   * known: until it expires, and for 10 minutes after it ended. A refusal is decided again.
   */
  reserve: mutation({
    summary: 'Reserves an amount of every budget that usage would count in, or says which ones refuse.',
    access: 'record',
    input: Reserve,
    output: Reserved,
  }),
  /**
   * Returns what `reserve` would decide now, and reserves nothing. For gateways that cannot settle: callers that check at
   * the same time may all be allowed the same amount.
   */
  check: query({
    summary: 'Says whether budgets would allow usage now, without a reservation.',
    access: 'record',
    input: z.strictObject({ ...Intended, amounts: Amounts.default({}) }),
    output: Checked,
  }),
  /** Decides each request by itself, in order. Items have the order of the requests. */
  reserveMany: mutation({
    summary: 'Reserves for up to 200 requests in one call, each decided by itself.',
    access: 'record',
    merchants: 'each',
    input: z.strictObject({ requests: many(Reserve) }),
    output: z.object({ items: z.array(itemOf(Reserved)) }),
  }),
  /**
   * Ends a reservation and records the event, also after the reservation expired; a repeat counts once. If the event is
   * rejected, the call throws the event's code. The reservation stays then, unless only a store could reject the event
   * (ID_CONFLICT, CARDINALITY_LIMIT, TOTAL_LIMIT): it has ended, and nothing counts.
   */
  settle: mutation({
    summary: 'Ends a reservation and records what was used.',
    access: 'record',
    merchants: 'own',
    input: Settle,
    output: Settled,
  }),
  /** Ends each reservation by itself, as `settle` would. Items have the order of the settlements. */
  settleMany: mutation({
    summary: 'Settles up to 200 reservations in one call.',
    access: 'record',
    merchants: 'each',
    // Entries are checked one by one, so that a bad one rejects its own settlement only.
    input: z.strictObject({ settlements: many(Settle.extend({ entry: AnyEntry.optional() })) }),
    output: z.object({ items: z.array(itemOf(Settled)) }),
  }),
  release: mutation({
    summary: 'Ends a reservation without usage.',
    access: 'record',
    merchants: 'own',
    input: z.strictObject({ reservationId: ReservationId }),
    output: z.object({ released: z.boolean() }),
  }),
} as const;
