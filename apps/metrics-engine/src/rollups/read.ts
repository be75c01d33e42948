import { createHash } from 'node:crypto';
import {
  Dimension,
  dayOf,
  EntityType,
  formatCost,
  formatQuantity,
  type JobRow,
  MerchantId,
  MetricType,
  parseTime,
  type RollupGrain,
  type RollupList,
  type RollupRow,
  TallyError,
  Time,
} from '@tally/contracts';
import type { Db, RollupPosition, RollupRow as StoredRow } from '@tally/db';
import { z } from 'zod';
import { decodeCursor, encodeCursor } from '../cursor.ts';

/** Reads rollups and the log of their runs, page by page. */
export function createRollupReader(db: Pick<Db, 'rollups'>) {
  return {
    async list(grain: RollupGrain, { cursor, ...question }: RollupList) {
      if (question.startDate > question.endDate)
        throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.');
      const of = fingerprint([grain, question]);
      const after = cursor === undefined ? undefined : decodeCursor(cursor, Position(of));
      const rows = await db.rollups.list(grain, { ...question, after });
      const last = rows.length === question.limit ? rows.at(-1) : undefined;
      const position = last && [
        last.period_start,
        last.entity_type,
        last.merchant_id,
        last.entity_id,
        last.metric_type,
      ];
      return { rows: rows.map(present), nextCursor: position ? encodeCursor([...position, of]) : null };
    },

    async log({ limit, cursor }: { limit: number; cursor?: string | undefined }) {
      const after = cursor === undefined ? undefined : decodeCursor(cursor, Run);
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
        nextCursor: last ? encodeCursor([last.started, last.id]) : null,
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

/** A day that a period begins with; the first of all begins before the first day that can be asked for. */
const PeriodStart = z.string().refine((day) => {
  const at = Date.parse(`${day}T00:00:00Z`);
  return day > '0999' && !Number.isNaN(at) && dayOf(at) === day;
});

/** The key of the last row, and the question that it belongs to. */
const Position = (of: string) =>
  z
    .tuple([PeriodStart, EntityType, MerchantId.or(z.literal('')), Dimension, MetricType, z.literal(of)])
    .transform(([start, type, merchantId, id, metric]): RollupPosition => [start, type, merchantId, id, metric]);

const Run = z
  .tuple([Time, z.uuid()])
  .transform(([started, id]) => ({ started: new Date(parseTime(started)!).toISOString(), id }));
