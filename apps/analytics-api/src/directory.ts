import type { DirectoryEntry, DirectoryKind } from '@tally/contracts';
import { TallyError } from '@tally/contracts';
import type { Db } from '@tally/db';
import { assertMerchant, type Caller, decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';

/**
 * The names of users, API keys and merchants. A caller bound to a merchant writes only its own entries. It lists those,
 * and general entries whose ids occur in its own usage.
 */
export function createDirectory(directory: Db['directory']) {
  return {
    async upsert(entries: readonly DirectoryEntry[], caller: Caller) {
      for (const { kind, id, merchantId } of entries) {
        assertOwn(caller, merchantId);
        if (kind === 'merchant') assertMerchant(caller, id);
      }
      return { written: await directory.upsert(entries) };
    },
    async list({
      cursor,
      limit,
      ...question
    }: {
      kind: DirectoryKind;
      merchantIds?: readonly string[] | undefined;
      boundTo: string | null;
      ids?: readonly string[] | undefined;
      search?: string | undefined;
      limit: number;
      cursor?: string | undefined;
    }) {
      const after = cursor === undefined ? undefined : decodeCursor(cursor, question, Place);
      const rows = await directory.list({ ...question, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      return {
        rows,
        nextCursor: last ? encodeCursor([last.id, last.merchantId ?? ''], question) : null,
      };
    },
    async remove(
      { kind, ids, merchantId }: { kind: DirectoryKind; ids: readonly string[]; merchantId: string | null },
      caller: Caller,
    ) {
      assertOwn(caller, merchantId);
      return { removed: await directory.remove({ kind, ids, merchantId }) };
    },
  };
}

const Place = z.tuple([z.string(), z.string()]).transform(([id, merchantId]) => ({ id, merchantId }));

export type Directory = ReturnType<typeof createDirectory>;

function assertOwn(caller: Caller, merchantId: string | null): void {
  if (merchantId !== null) assertMerchant(caller, merchantId);
  else if (caller.merchantId !== null)
    throw new TallyError('MERCHANT_FORBIDDEN', `This key is bound to merchant ${caller.merchantId}: name it.`);
}
