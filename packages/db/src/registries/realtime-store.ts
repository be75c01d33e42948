import type { RealtimeType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { runSql, sql } from '../run-sql.ts';

/** One Redis hash of a realtime metric as saved. `merchantId` '' is the platform; slice -1: without a window. */
export type SavedMetric = {
  merchantId: string;
  name: string;
  labels: string;
  slice: number;
  type: RealtimeType;
  meta: Record<string, unknown>;
  value: Record<string, string>;
  /** A whole number that grows with each copy of a merchant's metrics. */
  epoch: string;
  /** Milliseconds since 1970. */
  expiresAt: number;
};

export type RealtimeStore = {
  /** Stores hashes, replacing older copies. */
  save(metrics: readonly SavedMetric[]): Promise<void>;
  /** Yields the copies of a merchant that have not expired at `now`, page by page. */
  saved(
    merchantId: string,
    page: { now: number; after?: Pick<SavedMetric, 'name' | 'labels' | 'slice'> | undefined; limit: number },
  ): Promise<SavedMetric[]>;
  /** Returns merchants with copies. */
  merchants(): Promise<string[]>;
  /** Removes copies that expired before a moment; returns their number. */
  prune(now: number): Promise<number>;
};

/** Copies of realtime metrics in Postgres, in `realtime_metrics_cache`. */
export function createRealtimeStore(dataSource: DataSource): RealtimeStore {
  return {
    async save(metrics) {
      if (metrics.length === 0) return;
      await dataSource.query(sql('realtime/save'), [JSON.stringify(metrics)]);
    },

    async saved(merchantId, { now, after, limit }) {
      const position = [after?.name ?? null, after?.labels ?? null, after?.slice ?? null];
      return runSql(dataSource, 'realtime/saved', [merchantId, now, ...position, limit], SavedRow);
    },

    async merchants() {
      const rows = await runSql(dataSource, 'realtime/merchants', [], z.object({ id: z.string() }));
      return rows.map((row) => row.id);
    },

    async prune(now) {
      const [row] = await runSql(dataSource, 'realtime/prune', [now], z.object({ rows: z.string().transform(Number) }));
      return row!.rows;
    },
  };
}

const SavedRow = z
  .object({
    merchant_id: z.string(),
    name: z.string(),
    labels: z.string(),
    slice: z.string().transform(Number),
    type: z.enum(['COUNTER', 'GAUGE', 'HISTOGRAM', 'RATE']),
    meta: z.record(z.string(), z.unknown()),
    value: z.record(z.string(), z.string()),
    epoch: z.string(),
    expires_at: z.date().transform((date) => date.getTime()),
  })
  .transform(
    ({ merchant_id, expires_at, ...row }): SavedMetric => ({ ...row, merchantId: merchant_id, expiresAt: expires_at }),
  );
