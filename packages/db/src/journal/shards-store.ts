import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { Units } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';

/**
 * The right to flush some shards, until another flusher takes one of them. `token` grows with every lease, so a
 * transaction can check that its lease is still the newest.
 */
export type Fence = { shards: readonly number[]; token: bigint };

export type ShardsStore = {
  /** Returns the number of shards of this database; the first call ever fixes it. */
  count(wanted: number): Promise<number>;
  /** Leases at most `limit` free shards among these; undefined if all are held. */
  take(shards: readonly number[], limit: number, holder: string, leaseMs: number): Promise<Fence | undefined>;
  /** Releases shards before their lease ends. A lost lease is no error. */
  release(fence: Fence): Promise<void>;
};

/** Another flusher has taken a shard of this lease. Nothing was counted; the other one flushes the same items. */
export class LeaseLostError extends Error {
  constructor({ shards, token }: Fence) {
    super(`the lease ${token} of shards ${shards.join(', ')} was taken by another flusher`);
  }
}

const Taken = z.object({ shard: z.number(), token: Units });

/** Leases of shards: rows that the counting transaction checks, so they work through any pooler. */
export function createShardsStore(dataSource: DataSource): ShardsStore {
  return {
    async count(wanted) {
      const count = async () => {
        const [row] = await runSql(dataSource, 'count-shards', [], z.object({ count: z.number() }));
        return row!.count;
      };
      const known = await count();
      if (known > 0) return known;
      await dataSource.transaction(async ({ queryRunner }) => {
        await queryRunner!.query('lock table usage_shards in share row exclusive mode');
        await queryRunner!.query(sql('first-shards'), [wanted]);
      });
      return count();
    },
    async take(shards, limit, holder, leaseMs) {
      const rows = await runSql(dataSource, 'take-shards', [shards, limit, holder, leaseMs], Taken);
      return rows.length === 0 ? undefined : { shards: rows.map((row) => row.shard), token: rows[0]!.token };
    },
    async release({ shards, token }) {
      await dataSource.query(sql('release-shards'), [shards, token.toString()]);
    },
  };
}

/**
 * Locks the lease's rows for the transaction, so that nobody takes these shards before it ends. Call it first in the
 * counting transaction. Throws LeaseLostError if another flusher holds one of them.
 */
export async function checkFence(transaction: Executor, fence: Fence): Promise<void> {
  const Row = z.object({ shard: z.number() });
  const held = await runSql(transaction, 'check-fence', [fence.shards, fence.token.toString()], Row);
  if (held.length < fence.shards.length) throw new LeaseLostError(fence);
}
