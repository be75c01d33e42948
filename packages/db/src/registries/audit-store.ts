import { type AuditRow, addDays, type Day, startOfDay } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { AuditEntryEntity } from '../entities/audit-entry.ts';
import { runSql } from '../run-sql.ts';
import { And, LessThan, MoreThanOrEqual } from '../typeorm.ts';

export type AuditedAction = Pick<
  AuditRow,
  'service' | 'action' | 'actor' | 'role' | 'actorMerchantId' | 'merchantIds' | 'targetId' | 'input'
>;

export type AuditStore = {
  /** Records an action before it runs; returns the row's id. */
  begin(action: AuditedAction): Promise<string>;
  /** Records the outcome of an action. */
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
  /** Removes rows older than this number of days; returns how many. */
  prune(days: number): Promise<number>;
};

/** Rows per statement, so that no statement takes long. */
const PRUNED_AT_ONCE = 10_000;

/** The audit log, in `audit_log`. */
export function createAuditStore(dataSource: DataSource): AuditStore {
  const entries = dataSource.getRepository(AuditEntryEntity);
  return {
    async begin({ service, action, actor, role, actorMerchantId, merchantIds, targetId, input }) {
      const values = [service, action, actor, role, actorMerchantId, merchantIds, targetId, JSON.stringify(input)];
      const [row] = await runSql(dataSource, 'begin-audit', values, z.object({ id: z.string() }));
      return row!.id;
    },
    async finish(id, { outcome, targetId, durationMs }) {
      await runSql(dataSource, 'finish-audit', [id, outcome, targetId, durationMs], z.unknown());
    },
    async list({ startDate, endDate, actor, action, before, limit }) {
      const since = startDate === undefined ? [] : [MoreThanOrEqual(new Date(startOfDay(startDate)))];
      const until = endDate === undefined ? [] : [LessThan(new Date(startOfDay(addDays(endDate, 1))))];
      const rows = await entries.find({
        where: {
          ...((since.length > 0 || until.length > 0) && { at: And(...since, ...until) }),
          ...(actor !== undefined && { actor }),
          ...(action !== undefined && { action }),
          ...(before !== undefined && { id: LessThan(before) }),
        },
        order: { id: 'desc' },
        take: limit,
      });
      return rows.map(({ at, ...row }) => ({ ...row, at: at.toISOString() }));
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
