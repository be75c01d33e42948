import { z } from 'zod';
import { Role } from './access.ts';
import { mutation, query } from './contract.ts';
import { StoredTime } from './time.ts';

/** The caller, as the console displays it. */
const Who = z.object({
  /** The id of the key. */
  keyId: z.string(),
  name: z.string(),
  role: Role,
  merchantId: z.string().nullable(),
  teamId: z.string().nullable(),
});

/** Browser sessions: short-lived secrets that stand for an API key, so that no browser stores the key. */
export const sessions = {
  /** Starts a session for the caller's key. It ends on expiry, with its key, and when the key's secret is replaced. */
  create: mutation({
    summary: "Starts a session of the caller's key.",
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    /** The secret. Only this answer contains it; Tally keeps its hash. */
    output: Who.extend({ id: z.string(), secret: z.string(), expiresAt: StoredTime }),
  }),
  /** Returns the caller; `expiresAt` is null for an API key. */
  current: query({
    summary: 'Returns who the caller is.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    output: Who.extend({ expiresAt: StoredTime.nullable() }),
  }),
  /** Ends the caller's session; has no effect for an API key. */
  end: mutation({
    summary: "Ends the caller's session.",
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    output: z.object({ ended: z.boolean() }),
  }),
} as const;
