import { z } from 'zod';
import { mutation } from './contract.ts';
import { MerchantId, SentDimension } from './entry.ts';

/** People whose usage is counted. */
export const users = {
  /**
   * Replaces a user by a random pseudonym in everything that Tally stores about a merchant, and in what comes later; all
   * numbers stay. A call works for some seconds: repeat it until `complete`. Once complete, it begins from the start, with
   * the same pseudonym. Callers that are not bound to a merchant also erase what belongs to none: the general directory
   * entry of the user, and imported day snapshots. CONFLICT names active budgets and meters of this user.
   */
  erase: mutation({
    summary: 'Replaces a user of a merchant by a pseudonym everywhere; all numbers stay.',
    access: 'admin',
    input: z.strictObject({
      merchantId: MerchantId,
      userId: SentDimension.refine((userId) => userId !== '' && userId !== 'unknown', 'Expected the id of a user'),
    }),
    output: z.object({
      /** Reports show this in place of the user from now on. */
      pseudonym: z.string(),
      /** False: call again. */
      complete: z.boolean(),
      /** Events of the journal that this call renamed. */
      events: z.number().int(),
    }),
  }),
} as const;
