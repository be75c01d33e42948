import type { RealtimeType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';

/** One Redis hash of a realtime metric as it was saved. `merchantId` '' is the platform; slice -1: without a window. */
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
  /** Keeps hashes in place of what was kept of them before. */
  save(metrics: readonly SavedMetric[]): Promise<void>;
  /** What was saved of a merchant and has not expired at `now`, page by page. */
  saved(
    merchantId: string,
    page: { now: number; after?: Pick<SavedMetric, 'name' | 'labels' | 'slice'> | undefined; limit: number },
  ): Promise<SavedMetric[]>;
  /** Merchants of whom something was saved. */
  merchants(): Promise<string[]>;
  /** Removes what expired before a moment; returns how many. */
  prune(now: number): Promise<number>;
};

/** Realtime metrics as Postgres remembers them, in `realtime_metrics_cache`. */
export function createRealtimeStore(dataSource: DataSource): RealtimeStore {
  return {
    async save(metrics) {
      if (metrics.length === 0) return;
      await dataSource.query(
        `insert into realtime_metrics_cache (merchant_id, name, labels, slice, type, meta, value, epoch, expires_at)
         select "merchantId", name, labels, slice, type, meta, value, epoch, to_timestamp("expiresAt" / 1000.0)
         from jsonb_to_recordset($1::jsonb) as metric (
           "merchantId" text, name text, labels text, slice bigint, type text, meta jsonb, value jsonb, epoch bigint, "expiresAt" bigint)
         order by 1, 2, 3, 4
         on conflict (merchant_id, name, labels, slice) do update set
           type = excluded.type, meta = excluded.meta, value = excluded.value, epoch = excluded.epoch,
           saved_at = now(), expires_at = excluded.expires_at
         -- Two engines may save at once: the copy that was numbered later was read later.
         where realtime_metrics_cache.epoch <= excluded.epoch`,
        [JSON.stringify(metrics)],
      );
    },

    async saved(merchantId, { now, after, limit }) {
      const rows = (await dataSource.query(
        `select * from realtime_metrics_cache
         where merchant_id = $1 and expires_at > to_timestamp($2::bigint / 1000.0)
           and ($3::text is null or (name, labels, slice) > ($3, $4::text, $5::bigint))
         order by name, labels, slice
         limit $6`,
        [merchantId, now, after?.name ?? null, after?.labels ?? null, after?.slice ?? null, limit],
      )) as unknown[];
      return rows.map((row) => SavedRow.parse(row));
    },

    async merchants() {
      // From one merchant to the next by the primary key: their rows are not read.
      const rows = (await dataSource.query(
        `with recursive merchant (id) as (
           (select merchant_id from realtime_metrics_cache order by merchant_id limit 1)
           union all
           select (select merchant_id from realtime_metrics_cache where merchant_id > id order by merchant_id limit 1)
           from merchant where id is not null)
         select id from merchant where id is not null`,
      )) as { id: string }[];
      return rows.map((row) => row.id);
    },

    async prune(now) {
      const [row] = await dataSource.query(
        `with pruned as (
           delete from realtime_metrics_cache where expires_at <= to_timestamp($1::bigint / 1000.0) returning 1)
         select count(*) as rows from pruned`,
        [now],
      );
      return Number(row.rows);
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
