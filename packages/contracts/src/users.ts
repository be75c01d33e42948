import { z } from 'zod';
import { mutation } from './contract.ts';
import { MerchantId, SentDimension } from './entry.ts';

/** People whose usage is counted. */
export const users = {
  /**
   * Replaces a user by a random pseudonym in all stored data of a merchant, and in future events; all numbers stay. A
   * call works for some seconds: repeat it until `complete`. A call after that starts again with the same pseudonym.
   * Callers bound to no merchant also erase the general directory entry and imported day snapshots. CONFLICT names
   * active budgets and meters of this user.
   */
  erase: mutation({
    summary: 'Replaces a user of a merchant by a pseudonym everywhere; all numbers stay.',
    access: 'admin',
    input: z.strictObject({
      merchantId: MerchantId,
      userId: SentDimension.refine((userId) => userId !== '' && userId !== 'unknown', 'Expected the id of a user'),
    }),
    output: z.object({
      /** Replaces the user in reports from now on. */
      pseudonym: z.string(),
      /** False: call again. */
      complete: z.boolean(),
      /** Events of the journal that this call renamed. */
      events: z.number().int(),
    }),
  }),
} as const;
