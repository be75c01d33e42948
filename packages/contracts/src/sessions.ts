import { z } from 'zod';
import { Role } from './access.ts';
import { mutation, query } from './contract.ts';
import { StoredTime } from './time.ts';

/** The caller, as the console shows it. */
const Who = z.object({
  /** The id of the key. */
  keyId: z.string(),
  name: z.string(),
  role: Role,
  merchantId: z.string().nullable(),
  teamId: z.string().nullable(),
});

/** Sessions of browsers: secrets with a short life that stand for an API key, so that the key itself is kept nowhere. */
export const sessions = {
  /** Starts a session of the caller's key. It ends by itself, with its key, and when the key's secret is replaced. */
  create: mutation({
    summary: "Starts a session of the caller's key.",
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    /** `secret` is shown here once; only its hash is kept. */
    output: Who.extend({ id: z.string(), secret: z.string(), expiresAt: StoredTime }),
  }),
  /** Returns who the caller is; `expiresAt` is null where it shows an API key and no session. */
  current: query({
    summary: 'Returns who the caller is.',
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    output: Who.extend({ expiresAt: StoredTime.nullable() }),
  }),
  /** Ends the session that the caller shows; an API key ends nothing. */
  end: mutation({
    summary: "Ends the caller's session.",
    access: 'read',
    merchants: 'own',
    input: z.strictObject({}).prefault({}),
    output: z.object({ ended: z.boolean() }),
  }),
} as const;
