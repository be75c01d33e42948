import { type AuditRow, type Day, Role } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { Moment } from './rows.ts';
import { runSql } from './run-sql.ts';

export type AuditedAction = Pick<
  AuditRow,
  'service' | 'action' | 'actor' | 'role' | 'actorMerchantId' | 'merchantIds' | 'targetId' | 'input'
>;

export type AuditStore = {
  /** Records an action before it runs; returns the row's id. */
  begin(action: AuditedAction): Promise<string>;
  /** Records how it ended. */
  finish(id: string, end: { outcome: string; targetId: string | null; durationMs: number }): Promise<void>;
  /** Returns a page, newest first, of the rows with an id below `before`. */
  list(page: {
    startDate?: Day | undefined;
    endDate?: Day | undefined;
    actor?: string | undefined;
    action?: string | undefined;
    before?: string | undefined;
    limit: number;
  }): Promise<AuditRow[]>;
  /** Removes rows older than so many days; returns how many. */
  prune(days: number): Promise<number>;
};

/** Rows removed by one statement, so that none takes long. */
const PRUNED_AT_ONCE = 10_000;

/** The audit log, in `audit_log`. */
export function createAuditStore(dataSource: DataSource): AuditStore {
  return {
    async begin({ service, action, actor, role, actorMerchantId, merchantIds, targetId, input }) {
      const values = [service, action, actor, role, actorMerchantId, merchantIds, targetId, JSON.stringify(input)];
      const [row] = await runSql(dataSource, 'begin-audit', values, z.object({ id: z.string() }));
      return row!.id;
    },
    async finish(id, { outcome, targetId, durationMs }) {
      await runSql(dataSource, 'finish-audit', [id, outcome, targetId, durationMs], z.unknown());
    },
    async list({ startDate = null, endDate = null, actor = null, action = null, before = null, limit }) {
      return runSql(dataSource, 'list-audit', [startDate, endDate, actor, action, before, limit], Row);
    },
    async prune(days) {
      for (let removed = 0; ; ) {
        const [row] = await runSql(dataSource, 'prune-audit', [days, PRUNED_AT_ONCE], z.object({ rows: z.number() }));
        removed += row!.rows;
        if (row!.rows < PRUNED_AT_ONCE) return removed;
      }
    },
  };
}

const Row = z
  .object({
    id: z.string(),
    at: Moment,
    service: z.string(),
    action: z.string(),
    actor: z.string(),
    role: Role,
    actor_merchant_id: z.string().nullable(),
    merchant_ids: z.array(z.string()),
    target_id: z.string().nullable(),
    input: z.record(z.string(), z.unknown()),
    outcome: z.string().nullable(),
    duration_ms: z.number().nullable(),
  })
  .transform(
    ({ actor_merchant_id, merchant_ids, target_id, duration_ms, ...row }): AuditRow => ({
      ...row,
      actorMerchantId: actor_merchant_id,
      merchantIds: merchant_ids,
      targetId: target_id,
      durationMs: duration_ms,
    }),
  );
