import { z } from 'zod';
import { Role } from './access.ts';
import { mutation, query } from './contract.ts';
import { MerchantId } from './entry.ts';
import { Cursor, label, SearchText, Uuid } from './text.ts';
import { StoredTime, Time } from './time.ts';

export const ApiKey = z.object({
  id: z.string(),
  name: z.string(),
  role: Role,
  merchantId: z.string().nullable(),
  teamId: z.string().nullable(),
  createdAt: StoredTime,
  /** The id of the key that created it; null for keys that are older than this field. */
  createdBy: z.string().nullable(),
  /** To the minute; null where it was never used. */
  lastUsedAt: StoredTime.nullable(),
  /** The key is refused from then on; null: never. */
  expiresAt: StoredTime.nullable(),
  rotatedAt: StoredTime.nullable(),
  /** Until then, the secret from before the last rotation works too. */
  previousSecretExpiresAt: StoredTime.nullable(),
  revokedAt: StoredTime.nullable(),
  revokedBy: z.string().nullable(),
});
export type ApiKey = z.infer<typeof ApiKey>;

/** `key` is the secret. Only this answer contains it; Tally keeps its hash. */
const NewApiKey = ApiKey.extend({ key: z.string() });

const KeyName = label(100);

/** API keys. */
export const keys = {
  create: mutation({
    summary: 'Creates an API key; its secret is shown once.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      name: KeyName,
      role: Role.exclude(['service']),
      merchantId: MerchantId.optional(),
      teamId: MerchantId.optional(),
      /** Must be in the future; without it the key does not expire. */
      expiresAt: Time.optional(),
    }),
    output: NewApiKey,
  }),
  /**
   * Gives a key a new secret. Its id and everything that belongs to it stay. The previous secret works for the
   * overlap; any older one stops. Throws CONFLICT for a revoked key, and for an expired key without a later
   * `expiresAt`.
   */
  rotate: mutation({
    summary: 'Gives an API key a new secret; the old one works for the overlap.',
    access: 'admin',
    platform: true,
    input: z.strictObject({
      id: Uuid,
      overlapSeconds: z
        .number()
        .int()
        .min(0)
        .max(30 * 24 * 3600)
        .default(24 * 3600),
      expiresAt: Time.optional(),
    }),
    output: NewApiKey,
  }),
  /** Oldest first. */
  list: query({
    summary: 'Lists API keys, oldest first.',
    access: 'admin',
    platform: true,
    input: z
      .strictObject({
        includeRevoked: z.boolean().default(false),
        /** A part of the name, the id, the merchant or the team, in any case. */
        search: SearchText.optional(),
        limit: z.number().int().min(1).max(1000).default(100),
        cursor: Cursor.optional(),
      })
      .prefault({}),
    output: z.object({ rows: z.array(ApiKey), nextCursor: z.string().nullable() }),
  }),
  /** All processes refuse the key within a second. Revoking it again changes nothing. */
  revoke: mutation({
    summary: 'Revokes an API key.',
    access: 'admin',
    platform: true,
    input: z.strictObject({ id: Uuid }),
    output: ApiKey,
  }),
} as const;
