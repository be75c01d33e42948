import { createHash } from 'node:crypto';
import {
  formatCost,
  formatQuantity,
  isDay,
  type JobRow,
  parseTime,
  type RollupGrain,
  type RollupList,
  type RollupRow,
  TallyError,
} from '@tally/contracts';
import type { Db, RollupPosition, RollupRow as StoredRow } from '@tally/db';

/** Reads rollups and the log of their runs, page by page. */
export function createRollupReader(db: Pick<Db, 'rollups'>) {
  return {
    async list(grain: RollupGrain, { cursor, ...question }: RollupList) {
      if (question.startDate > question.endDate)
        throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.');
      const of = fingerprint([grain, question]);
      const after = cursor === undefined ? undefined : positionOf(cursor, of);
      const rows = await db.rollups.list(grain, { ...question, after });
      const last = rows.length === question.limit ? rows.at(-1) : undefined;
      const position = last && [
        last.period_start,
        last.entity_type,
        last.merchant_id,
        last.entity_id,
        last.metric_type,
      ];
      return { rows: rows.map(present), nextCursor: position ? encode([...position, of]) : null };
    },

    async log({ limit, cursor }: { limit: number; cursor?: string | undefined }) {
      const after = cursor === undefined ? undefined : runOf(cursor);
      const jobs = await db.rollups.log({ limit, after });
      const last = jobs.length === limit ? jobs.at(-1) : undefined;
      return {
        rows: jobs.map(
          ({ period, errors, ...job }): JobRow => ({
            ...job,
            period: { startDate: period.start, endDate: period.end },
            error:
              errors.length > 0
                ? errors
                    .map((each) => `${each.period}: ${each.message}`)
                    .join('; ')
                    .slice(0, 2000)
                : null,
          }),
        ),
        nextCursor: last ? encode([last.started, last.id]) : null,
      };
    },
  };
}

export type RollupReader = ReturnType<typeof createRollupReader>;

function present(row: StoredRow): RollupRow {
  const quantity = (units: bigint) => formatQuantity(row.metric_type, units);
  return {
    merchantId: row.merchant_id === '' ? null : row.merchant_id,
    entityType: row.entity_type,
    entityId: row.entity_id,
    periodStart: row.period_start,
    periodEnd: row.period_end,
    metricType: row.metric_type,
    value: quantity(row.value),
    dailyAverage: row.metric_type === 'cost' ? formatCost(BigInt(row.daily_average)) : shortest(row.daily_average),
    previous: row.previous === null ? null : quantity(row.previous),
    growthPercent: row.growth_percent === null ? null : Number(row.growth_percent),
    ...(row.breakdown && { breakdown: row.breakdown.map((week) => ({ ...week, value: quantity(week.value) })) }),
  };
}

const shortest = (decimal: string): string => (decimal.includes('.') ? decimal.replace(/\.?0+$/, '') : decimal);

/** A cursor carries the question it belongs to, so that it cannot continue another one. */
const fingerprint = (question: unknown): string =>
  createHash('sha256').update(JSON.stringify(question)).digest('base64url').slice(0, 16);

const encode = (parts: readonly string[]): string => Buffer.from(JSON.stringify(parts)).toString('base64url');

function decode(cursor: string): unknown[] {
  try {
    const parts: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    return Array.isArray(parts) ? parts : [];
  } catch {
    return [];
  }
}

function positionOf(cursor: string, of: string): RollupPosition {
  const [start, type, merchantId, id, metric, owner] = decode(cursor);
  const texts = [type, merchantId, id, metric];
  if (owner === of && typeof start === 'string' && isDay(start) && texts.every((text) => typeof text === 'string'))
    return [start, ...(texts as string[])] as unknown as RollupPosition;
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
}

function runOf(cursor: string): { started: string; id: string } {
  const [started, id] = decode(cursor);
  const sound = typeof started === 'string' && parseTime(started) !== undefined;
  if (sound && typeof id === 'string' && /^[0-9a-f-]{36}$/.test(id)) return { started, id };
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
}
