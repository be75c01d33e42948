import {
  type BreakdownRow,
  countDays,
  type Filters,
  formatCost,
  formatQuantity,
  type GroupBy,
  type Measures,
  percentOf,
  type SortBy,
  TallyError,
} from '@tally/contracts';
import type { Db, Position, Sums } from '@tally/db';
import type { Freshness } from './fresh.ts';

export type BreakdownQuestion = Filters & {
  by: GroupBy;
  sortBy: SortBy;
  order: 'asc' | 'desc';
  limit: number;
  cursor?: string | undefined;
};

export type ReadOptions = { db: Pick<Db, 'usage'>; freshness: Freshness };

const TOP_USERS = 5;
const TOP_MODELS = 10;

/** Answers questions about usage from what has been counted. */
export function createRead({ db, freshness }: ReadOptions) {
  const top = async (filters: Filters, by: GroupBy, limit: number) =>
    db.usage.breakdown({ ...filters, by, sortBy: 'cost', order: 'desc', limit });

  return {
    async breakdown({ cursor, ...question }: BreakdownQuestion) {
      assertOrder(question);
      const after = cursor === undefined ? {} : { after: decodeCursor(cursor, question) };
      const coverage = await freshness.cover(question);
      const { rows, totals, total } = await db.usage.breakdown({ ...question, ...after });
      const last = rows.at(-1);
      const full = rows.length === question.limit && last !== undefined;
      return {
        rows: rows.map(rowOf),
        totals: measuresOf(totals),
        total,
        nextCursor: full ? encodeCursor({ value: last.sort_value, key: last.key }, question) : null,
        coverage,
      };
    },

    async summary(filters: Filters) {
      assertOrder(filters);
      const coverage = await freshness.cover(filters);
      const [users, models, days, activeUsers] = await Promise.all([
        top(filters, 'user', TOP_USERS + 1),
        top(filters, 'model', TOP_MODELS),
        db.usage.byDay(filters),
        db.usage.countUsers(filters),
      ]);
      return {
        period: {
          startDate: filters.startDate,
          endDate: filters.endDate,
          days: countDays(filters.startDate, filters.endDate),
        },
        totals: measuresOf(models.totals),
        activeUsers,
        byDay: days.map(({ date, ...sums }) => ({ date, ...measuresOf(sums) })),
        topUsers: users.rows
          .filter((row) => row.key !== 'unknown')
          .slice(0, TOP_USERS)
          .map(rowOf),
        topModels: models.rows.map(rowOf),
        coverage,
      };
    },

    async merchantUsage(question: {
      merchantId: string;
      startDate: string;
      endDate: string;
      metricTypes?: string[] | undefined;
    }) {
      assertOrder(question);
      const merchantIds = [question.merchantId];
      const coverage = await freshness.cover({ ...question, merchantIds });
      const rows = await db.usage.merchantUsage({ ...question, merchantIds });
      return {
        rows: rows.map(({ merchant_id, date, metric_type, metric_value }) => ({
          merchantId: merchant_id,
          date,
          metricType: metric_type,
          metricValue: formatQuantity(metric_type, metric_value),
        })),
        nextCursor: null,
        coverage,
      };
    },
  };
}

export type Read = ReturnType<typeof createRead>;

/** Sums as they are answered: quantities, the derived total, the success rate. */
export function measuresOf(sums: Sums): Measures {
  return {
    requests: sums.requests.toString(),
    failedRequests: sums.failed_requests.toString(),
    promptTokens: sums.prompt_tokens.toString(),
    completionTokens: sums.completion_tokens.toString(),
    totalTokens: (sums.prompt_tokens + sums.completion_tokens).toString(),
    cost: formatCost(sums.cost),
    successRate: percentOf(sums.requests - sums.failed_requests, sums.requests),
  };
}

function rowOf({ key, ...sums }: Sums & { key: string }): BreakdownRow {
  return { key, label: key, details: {}, ...measuresOf(sums) };
}

function assertOrder({ startDate, endDate }: { startDate: string; endDate: string }): void {
  if (startDate <= endDate) return;
  throw new TallyError('INVALID_DATE_ORDER', 'Start date must be before or equal to end date.', {
    details: { startDate, endDate },
  });
}

type Paged = Omit<BreakdownQuestion, 'cursor'>;

/** A cursor carries the question it belongs to, so that it cannot continue another one. */
function encodeCursor(position: Position, question: Paged): string {
  return Buffer.from(JSON.stringify([position.value, position.key, fingerprint(question)])).toString('base64url');
}

function decodeCursor(cursor: string, question: Paged): Position {
  try {
    const [value, key, of] = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')) as unknown[];
    const sound = question.sortBy === 'key' || (typeof value === 'string' && /^-?\d+$/.test(value));
    if (sound && typeof value === 'string' && typeof key === 'string' && of === fingerprint(question))
      return { value, key };
  } catch {
    // Falls through to the one error for every unreadable cursor.
  }
  throw new TallyError('INVALID_CURSOR', 'This cursor does not belong to this question.');
}

function fingerprint({ by, sortBy, order, startDate, endDate }: Paged): string {
  return [by, sortBy, order, startDate, endDate].join(' ');
}
