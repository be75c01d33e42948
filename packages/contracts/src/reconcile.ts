import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { MerchantId } from './entry.ts';
import { Quantity } from './quantity.ts';
import { Day, StoredDay } from './time.ts';

/** Null for a form that does not hold the number. */
const Stored = Quantity.nullable();

/** A number that differs between stored forms. */
export const Drift = z.object({
  merchantId: z.string(),
  /** For a month that differs from its days, or a year that differs from its months: its first day. */
  date: StoredDay,
  metricType: z.string(),
  /** Events and adjustments. */
  journal: Quantity,
  daily: Stored,
  usage: Quantity,
  /** The running total minus pending events. */
  live: Stored,
  dailyModels: Stored,
  quarterHours: Stored,
  monthly: Stored,
  yearly: Stored,
  /** The derived rollup that differs from its source; `merchantId` is '' for a rollup of all merchants. */
  rollup: z.string().optional(),
  /** The first differing form minus the journal. */
  drift: Quantity,
  /** Events that the difference may come from. */
  suspects: z.array(z.object({ id: z.string(), why: z.string() })),
});

/** Rows of a meter's rollup that differ from their source: the journal, or the finer rollup. */
export const MeterDrift = z.object({
  meter: z.string(),
  merchantId: z.string(),
  /** The day, or the first day of the month. */
  date: StoredDay,
  rollup: z.enum(['meter_quarters', 'meter_days', 'meter_months', 'meter_trimesters', 'meter_years']),
  /** The number of differing rows. */
  rows: z.number().int(),
  /** One differing row. A side is null if it has no such row; for UNIQUE and PERCENTILE it is a count. */
  first: z.object({
    period: z.string(),
    /** Values of the meter's dimensions, in their order. */
    group: z.array(z.string()),
    journal: Quantity.nullable(),
    stored: Quantity.nullable(),
  }),
});

/** Compares all stored forms of the same numbers, and repairs them. */
export const reconcile = {
  check: query({
    summary: 'Compares all stored forms of the numbers of some days.',
    access: 'admin',
    input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: z.array(MerchantId).max(1000).optional() }),
    output: z.object({
      balanced: z.boolean(),
      drift: z.array(Drift),
      meters: z.array(MeterDrift),
      merchantsChecked: z.number().int(),
      /** Merchant, day and metric type, each compared over all stored forms, and rows of meters. */
      numbersChecked: z.number().int(),
    }),
  }),
  /**
   * Rebuilds all rollups of these days from events and adjustments, by merchant and month; days whose events were
   * dropped are rebuilt from their daily sums. A repeat changes nothing; an interrupted call keeps what is done.
   */
  rebuild: mutation({
    summary: 'Computes all sums of some days again from events and adjustments.',
    access: 'admin',
    input: z.strictObject({ startDate: Day, endDate: Day, merchantIds: z.array(MerchantId).max(1000).optional() }),
    output: z.object({
      merchants: z.number().int(),
      days: z.number().int(),
      /** Merchant-days that have no events any more. */
      closedDays: z.number().int(),
      durationMs: z.number().int(),
    }),
  }),
  /**
   * Checks the days that Redis keeps, and corrects running totals from Postgres. Rebuilds meter rollups that differ.
   */
  repair: mutation({
    summary: 'Checks the days that Redis keeps; corrects its totals and the rollups of meters.',
    access: 'admin',
    platform: true,
    input: z.strictObject({}).prefault({}),
    output: z.object({
      balanced: z.boolean(),
      drift: z.array(Drift),
      meters: z.array(MeterDrift),
      repaired: z.number().int(),
    }),
  }),
} as const;
