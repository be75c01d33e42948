import { z } from 'zod';
import { mutation, query } from './contract.ts';
import { Quantity } from './quantity.ts';
import { Day, StoredDay, StoredTime } from './time.ts';

/** Paths that LiteLLM posts calls to. Its `openmeter` callback has `/sources/litellm` as OPENMETER_API_ENDPOINT. */
export const LITELLM_PATHS = { logs: '/sources/litellm/logs', events: '/sources/litellm/api/v1/events' } as const;

/** The path of LiteLLM's generic guardrail; `/sources/litellm` is its `api_base`. */
export const LITELLM_GUARDRAIL_PATH = '/sources/litellm/beta/litellm_basic_guardrail_api';

export const LitellmPull = z.object({
  id: z.string(),
  /** schedule: from the end of the previous pull; hand: a requested range; day: a whole day, once it is complete. */
  kind: z.enum(['schedule', 'hand', 'day']),
  status: z.enum(['RUNNING', 'COMPLETED', 'FAILED']),
  /** Start times of the calls; the end is exclusive. */
  start: StoredTime,
  end: StoredTime,
  /** Every call that started before this time is recorded; an interrupted pull continues from here. */
  position: StoredTime,
  /** The finished share of the range, 0 to 100. */
  percent: z.number(),
  calls: z.number().int(),
  accepted: z.number().int(),
  /** Calls that had already been recorded, by a pull or a push. */
  duplicates: z.number().int(),
  rejected: z.number().int(),
  /** The first rejected calls. */
  rejections: z.array(z.object({ id: z.string().nullable(), code: z.string(), message: z.string() })),
  /** Rows that LiteLLM counted but did not return. */
  missing: z.number().int(),
  error: z.object({ code: z.string(), message: z.string() }).nullable(),
  startedAt: StoredTime,
  finishedAt: StoredTime.nullable(),
});
export type LitellmPull = z.infer<typeof LitellmPull>;

const Sums = z.object({
  requests: Quantity,
  failedRequests: Quantity,
  promptTokens: Quantity,
  completionTokens: Quantity,
  cost: Quantity,
});

/** LiteLLM as a source of usage. Only for callers that are bound to no merchant. */
export const litellm = {
  /**
   * Pulls LiteLLM's log of these days; without dates, what is new since the last pull. Answers at the end, or after 20
   * seconds with the progress; then see `litellm.status`. Throws SOURCE_BUSY while another pull runs.
   */
  pull: mutation({
    summary: 'Pulls calls that LiteLLM logged.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day.optional(), endDate: Day.optional() }).prefault({}),
    output: LitellmPull,
  }),
  status: query({
    summary: 'Returns the state of the LiteLLM source and its latest pulls.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ startDate: Day.optional(), endDate: Day.optional() }).prefault({}),
    output: z.object({
      /** True if an address to pull from is configured. */
      configured: z.boolean(),
      /** Milliseconds between two pulls; null if they only start by hand. */
      intervalMs: z.number().nullable(),
      lastCompletedAt: StoredTime.nullable(),
      /** The newest 20. */
      pulls: z.array(LitellmPull),
      /**
       * The days of the range, at most 400 (default: the last 31), with the sums of their calls and LiteLLM's own sums.
       */
      days: z.array(
        z.object({
          date: StoredDay,
          /** What is counted, its calls or its daily sums; null if neither. */
          toldBy: z.enum(['calls', 'sums']).nullable(),
          seen: Sums.nullable(),
          reported: Sums.nullable(),
          differs: z.boolean().nullable(),
          /** Why LiteLLM's sums could not be read. */
          error: z.string().nullable(),
          checkedAt: StoredTime.nullable(),
        }),
      ),
    }),
  }),
} as const;

/** The answer of the receivers. */
export const LitellmReceipt = z.object({
  accepted: z.number().int(),
  duplicates: z.number().int(),
  /** `null` items, which LiteLLM sends for missing payloads. */
  empty: z.number().int(),
  rejected: z.array(
    z.object({ index: z.number().int(), id: z.string().nullable(), code: z.string(), message: z.string() }),
  ),
});
export type LitellmReceipt = z.infer<typeof LitellmReceipt>;
