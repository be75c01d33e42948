import {
  COST_DECIMALS,
  Dimension,
  dayOf,
  EntityType,
  formatQuantity,
  formatUnits,
  type JobRow,
  MerchantId,
  MetricType,
  parseTime,
  type RollupGrain,
  type RollupList,
  type RollupRow,
  type ScaleOf,
  TallyError,
  Time,
} from '@tally/contracts';
import type { Db, RollupPosition, RollupRow as StoredRow } from '@tally/db';
import { decodeCursor, encodeCursor } from '@tally/service';
import { z } from 'zod';

/** Reads rollups and the log of their runs, page by page. */
export function createRollupReader(db: Pick<Db, 'rollups' | 'metricTypes'>) {
  return {
    async list(grain: RollupGrain, { cursor, limit, ...question }: RollupList) {
      if (question.startDate > question.endDate)
        throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.');
      const asked = [grain, question];
      const after = cursor === undefined ? undefined : decodeCursor(cursor, asked, Position);
      const rows = await db.rollups.list(grain, { ...question, limit, after });
      const last = rows.length === limit ? rows.at(-1) : undefined;
      const position = last && [
        last.period_start,
        last.entity_type,
        last.merchant_id,
        last.entity_id,
        last.metric_type,
      ];
      const scaleOf = await db.metricTypes.scales(rows.map(({ metric_type }) => metric_type));
      return {
        rows: rows.map((row) => present(row, scaleOf)),
        nextCursor: position ? encodeCursor(position, asked) : null,
      };
    },

    async log({ limit, cursor }: { limit: number; cursor?: string | undefined }) {
      const after = cursor === undefined ? undefined : decodeCursor(cursor, LOG, Run);
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
        nextCursor: last ? encodeCursor([last.started, last.id], LOG) : null,
      };
    },
  };
}

export type RollupReader = ReturnType<typeof createRollupReader>;

function present(row: StoredRow, scaleOf: ScaleOf): RollupRow {
  const quantity = (units: bigint) => formatQuantity(row.metric_type, units, scaleOf);
  return {
    merchantId: row.merchant_id === '' ? null : row.merchant_id,
    entityType: row.entity_type,
    entityId: row.entity_id,
    periodStart: row.period_start,
    periodEnd: row.period_end,
    metricType: row.metric_type,
    value: quantity(row.value),
    dailyAverage: averageOf(row, scaleOf),
    previous: row.previous === null ? null : quantity(row.previous),
    growthPercent: row.growth_percent === null ? null : Number(row.growth_percent),
    ...(row.breakdown && { breakdown: row.breakdown.map((week) => ({ ...week, value: quantity(week.value) })) }),
  };
}

/** Formats an average in units; averages of whole units have decimals. */
function averageOf({ metric_type, daily_average }: StoredRow, scaleOf: ScaleOf): string {
  const scale = metric_type === 'cost' ? COST_DECIMALS : scaleOf(metric_type);
  if (scale === 0) return shortest(daily_average);
  const [whole = '0', fraction = ''] = daily_average.split('.');
  return formatUnits(BigInt(whole + fraction), scale + fraction.length);
}

const shortest = (decimal: string): string => (decimal.includes('.') ? decimal.replace(/\.?0+$/, '') : decimal);

/** The first day of a period; the earliest period begins before the first day that a query can name. */
const PeriodStart = z.string().refine((day) => {
  const at = Date.parse(`${day}T00:00:00Z`);
  return day > '0999' && !Number.isNaN(at) && dayOf(at) === day;
});

/** The key of the last row. */
const Position: z.ZodType<RollupPosition> = z.tuple([
  PeriodStart,
  EntityType,
  MerchantId.or(z.literal('')),
  Dimension,
  MetricType,
]);

const LOG = 'jobs.log';
const Run = z
  .tuple([Time, z.uuid()])
  .transform(([started, id]) => ({ started: new Date(parseTime(started)!).toISOString(), id }));
