import { z } from 'zod';
import { Role } from './access.ts';
import { query } from './contract.ts';
import { Cursor, text } from './text.ts';
import { Day, StoredTime } from './time.ts';

/** One call of an administrative mutation. */
export const AuditRow = z.object({
  id: z.string(),
  at: StoredTime,
  service: z.string(),
  /** The procedure, such as `keys.create`. */
  action: z.string(),
  /** The id of the calling key. `admin` and `service` are the keys from the settings. */
  actor: z.string(),
  role: Role,
  /** The merchant the key is bound to; null: none. */
  actorMerchantId: z.string().nullable(),
  /** The merchants that the call named, at most 100; without any, the merchant of the key. */
  merchantIds: z.array(z.string()),
  /** The id of the changed or created object. */
  targetId: z.string().nullable(),
  /** The input, shortened and without secrets. */
  input: z.record(z.string(), z.unknown()),
  /**
   * `ok`, `failed` if the answer reports a failure, or the error code. Null while the call runs, and if the process
   * ended or the database was unavailable before the outcome was recorded.
   */
  outcome: z.string().nullable(),
  durationMs: z.number().int().nullable(),
});
export type AuditRow = z.infer<typeof AuditRow>;

export const audit = {
  /** Newest first. Calls refused before they ran (no access, invalid input) appear only in the request log. */
  list: query({
    summary: 'Lists calls of administrative mutations, newest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        startDate: Day.optional(),
        endDate: Day.optional(),
        actor: text(200).optional(),
        action: text(200).optional(),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(AuditRow), nextCursor: z.string().nullable() }),
  }),
} as const;
