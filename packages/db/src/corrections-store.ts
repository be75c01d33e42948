import { type Day, TallyError, type Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { Admission } from './admission.ts';
import { withPseudonyms } from './erasures-store.ts';
import { type Explained, filtersOf } from './events-store.ts';
import type { Journal } from './journal-store.ts';
import type { MeterRollups } from './meters/meter-rollups-store.ts';
import { holdRolledUp } from './rolled-up.ts';
import { DateText, MeasureRow, Moment, Units } from './rows.ts';
import { runSql, sql } from './run-sql.ts';

export type Dimensions = { userId: string; apiKey: string; model: string; provider: string };

export type Adjustment = {
  id: string;
  merchantId: string;
  date: Day;
  dimensions: Dimensions;
  /** Signed amounts by metric type, in units. */
  amounts: ReadonlyMap<string, UnitsType>;
  reason: string;
  actor: string;
  createdAt: string;
};

export type CorrectionsStore = {
  /**
   * Records an adjustment and counts it in the same transaction, once per id; sent again it is answered as it was
   * recorded. CONFLICT where the id stands for another adjustment. `voids`: the event of that day which it takes back.
   */
  adjust(adjustment: Omit<Adjustment, 'createdAt'> & { voids?: string | undefined }): Promise<Adjustment>;
  /** The newest adjustments that made a number, oldest first, and how many did. */
  adjustments(number: Explained, limit: number): Promise<{ newest: Adjustment[]; count: number }>;
};

/** Whether it is new, and how many rollups of days it changed, whose months and years have that day: 0 or 1 each. */
const CountedRow = z.object({
  inserted: z.string().transform(Number),
  rolled_up: z.string().transform(Number),
});

const COLUMNS = ['requests', 'failed_requests', 'prompt_tokens', 'completion_tokens', 'cost'] as const;

const Row = z
  .object({
    merchant_id: z.string(),
    id: z.string(),
    date: DateText,
    user_id: z.string(),
    api_key: z.string(),
    model: z.string(),
    provider: z.string(),
    ...MeasureRow,
    metrics: z.record(z.string(), Units).nullable(),
    reason: z.string(),
    actor: z.string(),
    created_at: Moment,
    all_adjustments: z.string().transform(Number),
  })
  .transform((row): Adjustment & { all: number } => {
    const own = COLUMNS.map((column): [string, UnitsType] => [column, row[column]]);
    const amounts = [...own, ...Object.entries(row.metrics ?? {})].filter(([, units]) => units !== 0n);
    return {
      id: row.id,
      merchantId: row.merchant_id,
      date: row.date,
      dimensions: { userId: row.user_id, apiKey: row.api_key, model: row.model, provider: row.provider },
      amounts: new Map(amounts),
      reason: row.reason,
      actor: row.actor,
      createdAt: row.created_at,
      all: row.all_adjustments,
    };
  });

/** Corrections: a number is never edited, it is adjusted, and says why and by whom. */
export function createCorrectionsStore(
  dataSource: DataSource,
  journal: Journal,
  admission: Admission,
  meters: Pick<MeterRollups, 'adjusted'>,
): CorrectionsStore {
  type Question = Partial<Explained> & { merchantId: string; id?: string; limit: number };
  const find = ({ merchantId, startDate, endDate, id, metricTypes, limit, ...filters }: Question) => {
    const chosen = [startDate ?? null, endDate ?? null, id ?? null, metricTypes ?? null];
    return runSql(dataSource, 'adjustments', [merchantId, ...chosen, ...filtersOf(filters), limit], Row);
  };

  return {
    async adjustments(number, limit) {
      const rows = await find({ ...number, limit });
      return { newest: rows.map(withoutCount).reverse(), count: rows[0]?.all ?? 0 };
    },

    async adjust({ voids, ...adjustment }) {
      const { committed, userId } = await journal.exclusively([adjustment.merchantId], async (transaction) => {
        const [record] = await withPseudonyms(transaction, [recordOf(adjustment)]);
        const { bits, committed } = await admission.admit(transaction, [record!]);
        const row = { ...record!, folded: bits?.[0] ?? null };
        await holdRolledUp(transaction);
        const json = JSON.stringify(row);
        const [counted] = await runSql(transaction, 'adjust', ['adjustment', json], CountedRow);
        if (counted!.rolled_up > 0) await transaction.query(sql('adjust-periods'), [json]);
        const { merchantId, id, date } = adjustment;
        if (counted!.inserted > 0) {
          await meters.adjusted(transaction, { merchantId, id, date, ...(voids !== undefined && { voids }) });
          await transaction.query(sql('count-budget-adjustment'), [merchantId, id]);
        }
        return { committed, userId: record!.user_id };
      });
      committed();
      const [found] = await find({ merchantId: adjustment.merchantId, id: adjustment.id, limit: 1 });
      const recorded = found && withoutCount(found);
      const sent = { ...adjustment, dimensions: { ...adjustment.dimensions, userId } };
      if (!recorded || !isSame(recorded, sent)) {
        throw new TallyError('CONFLICT', `Adjustment ${adjustment.id} of this merchant exists, with other contents.`);
      }
      return recorded;
    },
  };
}

const withoutCount = ({ all: _, ...adjustment }: Adjustment & { all: number }): Adjustment => adjustment;

function recordOf({ id, merchantId, date, dimensions, amounts, reason, actor }: Omit<Adjustment, 'createdAt'>) {
  const others = [...amounts].filter(([type]) => !COLUMNS.includes(type as (typeof COLUMNS)[number]));
  return {
    merchant_id: merchantId,
    id,
    date,
    user_id: dimensions.userId,
    api_key: dimensions.apiKey,
    model: dimensions.model,
    provider: dimensions.provider,
    ...Object.fromEntries(COLUMNS.map((column) => [column, (amounts.get(column) ?? 0n).toString()])),
    metrics: others.length === 0 ? null : Object.fromEntries(others.map(([type, units]) => [type, units.toString()])),
    reason,
    actor,
  };
}

function isSame(recorded: Adjustment, sent: Omit<Adjustment, 'createdAt'>): boolean {
  const comparable = ({ date, dimensions, amounts, reason }: Omit<Adjustment, 'createdAt'>) =>
    JSON.stringify([
      date,
      dimensions,
      reason,
      [...amounts]
        .filter(([, units]) => units !== 0n)
        .sort()
        .map(String),
    ]);
  return comparable(recorded) === comparable(sent);
}
