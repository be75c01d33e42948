import { z } from 'zod';
import { audit } from './audit.ts';
import { budgets } from './budgets.ts';
import { mutation, query, type RouterOf } from './contract.ts';
import { MerchantId } from './entry.ts';
import { flush } from './flush.ts';
import { keys } from './keys.ts';
import { litellm } from './litellm.ts';
import { meters } from './meters.ts';
import { prices } from './prices.ts';
import { reconcile } from './reconcile.ts';
import { sessions } from './sessions.ts';
import { sources } from './sources.ts';
import { StoredDay, StoredTime } from './time.ts';
import { usage } from './usage.ts';
import { users } from './users.ts';

export const DeadLetter = z.object({
  id: z.string(),
  merchantId: z.string(),
  date: StoredDay,
  entryId: z.string(),
  code: z.string(),
  message: z.string(),
  attempts: z.number().int(),
  createdAt: StoredTime,
  resolvedAt: StoredTime.nullable(),
});
export type DeadLetter = z.infer<typeof DeadLetter>;

/** usage-ingest: records usage, counts it, flushes it to Postgres. */
export const ingest = {
  usage,
  reconcile,
  deadLetters: {
    list: query({
      summary: 'Lists events that Postgres rejected.',
      access: 'admin',
      input: z
        .strictObject({
          merchantId: MerchantId.optional(),
          includeResolved: z.boolean().default(false),
          limit: z.number().int().min(1).max(1000).default(100),
          cursor: z
            .string()
            .regex(/^\d{1,18}$/)
            .optional(),
        })
        .prefault({}),
      output: z.object({ rows: z.array(DeadLetter), nextCursor: z.string().nullable() }),
    }),
    /**
     * Retries dead letters, oldest first: the named ones, those of a merchant, or all. `left` counts those not tried
     * because of `limit`; call again for them.
     */
    retry: mutation({
      summary: 'Tries again to count events that Postgres rejected.',
      access: 'admin',
      input: z
        .strictObject({
          merchantId: MerchantId.optional(),
          ids: z
            .array(z.string().regex(/^\d{1,18}$/))
            .max(1000)
            .optional(),
          limit: z.number().int().min(1).max(1000).default(1000),
        })
        .prefault({}),
      output: z.object({ counted: z.number().int(), stillRefused: z.array(DeadLetter), left: z.number().int() }),
    }),
  },
  journal: {
    /** Closes days past the retention: drops their events and keeps their sums. */
    close: mutation({
      summary: 'Closes days that are past the retention: their sums stay, their events go.',
      access: 'admin',
      platform: true,
      input: z.strictObject({}).prefault({}),
      output: z.object({ closed: z.array(StoredDay) }),
    }),
  },
  flush,
  keys,
  meters,
  prices,
  budgets,
  sessions,
  audit,
  sources,
  litellm,
  users,
} as const;

export type IngestRouter = RouterOf<typeof ingest>;
