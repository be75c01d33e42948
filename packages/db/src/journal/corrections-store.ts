import { type Day, MEASURES, type Measure, TallyError, type Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { AdjustmentEntity } from '../entities/adjustment.ts';
import type { MeterRollups } from '../meters/meter-rollups-store.ts';
import { holdRolledUp } from '../rollups/rolled-up.ts';
import { DateText, Moment, Units } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import type { Admission } from './admission.ts';
import { type Explained, filtersOf } from './events-store.ts';
import type { Journal } from './journal-store.ts';
import { withPseudonyms } from './pseudonyms.ts';

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

export type NewAdjustment = Omit<Adjustment, 'createdAt'>;

/** The event that an adjustment takes back, and its time in ISO 8601. */
export type VoidedEvent = { id: string; time: string };

export type CorrectionsStore = {
  /**
   * Records an adjustment and counts it in the same transaction, once per id; a repeat returns the recorded one. Throws
   * CONFLICT if another adjustment has the id. `voids`: the event of that day that it takes back, at the event's time.
   */
  adjust(adjustment: NewAdjustment & { voids?: VoidedEvent | undefined }): Promise<Adjustment>;
  /**
   * Records re-ratings of one merchant in one transaction, those with a new id; counts them also as part of what Tally
   * priced. Returns how many were new.
   */
  rerate(adjustments: readonly (NewAdjustment & { reratedSize: number })[]): Promise<number>;
  /** The newest adjustments that made a number, oldest first, and how many did. */
  adjustments(number: Explained, limit: number): Promise<{ newest: Adjustment[]; count: number }>;
};

/** Those that are new, and the last of their days that months and years have already. */
const CountedRow = z.object({ inserted: z.array(z.string()), rolled_up: DateText.nullable() });

const Row = z
  .object({
    merchantId: z.string(),
    id: z.string(),
    date: DateText,
    userId: z.string(),
    apiKey: z.string(),
    model: z.string(),
    provider: z.string(),
    requests: Units,
    failedRequests: Units,
    promptTokens: Units,
    completionTokens: Units,
    cost: Units,
    metrics: z.record(z.string(), Units).nullable(),
    reason: z.string(),
    actor: z.string(),
    createdAt: Moment,
  })
  .transform(({ userId, apiKey, model, provider, metrics, ...row }): Adjustment => {
    const measures: [string, UnitsType][] = [
      ['requests', row.requests],
      ['failed_requests', row.failedRequests],
      ['prompt_tokens', row.promptTokens],
      ['completion_tokens', row.completionTokens],
      ['cost', row.cost],
    ];
    const amounts = [...measures, ...Object.entries(metrics ?? {})].filter(([, units]) => units !== 0n);
    return {
      id: row.id,
      merchantId: row.merchantId,
      date: row.date,
      dimensions: { userId, apiKey, model, provider },
      amounts: new Map(amounts),
      reason: row.reason,
      actor: row.actor,
      createdAt: row.createdAt,
    };
  });
const CountRow = z.object({ count: z.string().transform(Number) });

/** Corrections: a number is never edited but adjusted, with author and reason. */
export function createCorrectionsStore(
  dataSource: DataSource,
  journal: Journal,
  admission: Admission,
  meters: Pick<MeterRollups, 'adjusted'>,
): CorrectionsStore {
  const recorded = dataSource.getRepository(AdjustmentEntity);

  /** Records adjustments of one merchant; returns the ids of those that are new. `voids`: there is only one. */
  async function record(
    transaction: Executor,
    adjustments: readonly (NewAdjustment & { reratedSize?: number })[],
    voids?: VoidedEvent,
  ) {
    const records = await withPseudonyms(transaction, adjustments.map(recordOf));
    const { bits, committed } = await admission.admit(transaction, records);
    const rows = records.map((row, position) => ({
      ...row,
      folded: bits?.[position] || null,
      time: voids?.time ?? null,
    }));
    await holdRolledUp(transaction);
    const [counted] = await runSql(transaction, 'adjust', ['adjustment', JSON.stringify(rows)], CountedRow);
    const ids = counted!.inserted;
    if (ids.length > 0) {
      const isNew = new Set(ids);
      const added = rows.filter(({ id }) => isNew.has(id));
      const late = added.filter(({ date }) => counted!.rolled_up !== null && date <= counted!.rolled_up);
      if (late.length > 0) await transaction.query(sql('adjust-periods'), [JSON.stringify(late)]);
      const { merchantId } = adjustments[0]!;
      const idsByDay = new Map<Day, string[]>();
      for (const { date, id } of added) {
        const own = idsByDay.get(date);
        if (own) own.push(id);
        else idsByDay.set(date, [id]);
      }
      await meters.adjusted(transaction, { merchantId, idsByDay, ...(voids && { voids: voids.id }) });
      await transaction.query(sql('count-priced-adjustments'), [merchantId, ids]);
      await transaction.query(sql('count-budget-adjustments'), [merchantId, ids]);
    }
    return { ids, committed, records };
  }

  return {
    async adjustments(number, limit) {
      const { merchantId, startDate, endDate, metricTypes, ...filters } = number;
      const values = [merchantId, startDate, endDate, metricTypes, ...filtersOf(filters), limit];
      const rows = await runSql(dataSource, 'adjustments', values, z.unknown());
      return {
        newest: rows.map((row) => Row.parse(row)).reverse(),
        count: rows.length === 0 ? 0 : CountRow.parse(rows[0]).count,
      };
    },

    async adjust({ voids, ...adjustment }) {
      const { merchantId, id } = adjustment;
      const { committed, records } = await journal.exclusively([merchantId], (transaction) =>
        record(transaction, [adjustment], voids),
      );
      committed();
      const row = await recorded.findOneBy({ merchantId, id });
      const found = row && Row.parse(row);
      const sent = { ...adjustment, dimensions: { ...adjustment.dimensions, userId: records[0]!.user_id } };
      if (!found || !isSame(found, sent)) {
        throw new TallyError('CONFLICT', `Adjustment ${adjustment.id} of this merchant exists, with other contents.`);
      }
      return found;
    },

    async rerate(adjustments) {
      if (adjustments.length === 0) return 0;
      const { ids, committed } = await journal.exclusively([adjustments[0]!.merchantId], (transaction) =>
        record(transaction, adjustments),
      );
      committed();
      return ids.length;
    },
  };
}

function recordOf(adjustment: NewAdjustment & { reratedSize?: number }) {
  const { id, merchantId, date, dimensions, amounts, reason, actor, reratedSize } = adjustment;
  const others = [...amounts].filter(([type]) => !MEASURES.includes(type as Measure));
  return {
    merchant_id: merchantId,
    id,
    date,
    user_id: dimensions.userId,
    api_key: dimensions.apiKey,
    model: dimensions.model,
    provider: dimensions.provider,
    ...Object.fromEntries(MEASURES.map((measure) => [measure, (amounts.get(measure) ?? 0n).toString()])),
    metrics: others.length === 0 ? null : Object.fromEntries(others.map(([type, units]) => [type, units.toString()])),
    reason,
    actor,
    rerated_size: reratedSize ?? null,
  };
}

function isSame(recorded: Adjustment, sent: NewAdjustment): boolean {
  const comparable = ({ date, dimensions, amounts, reason }: NewAdjustment) =>
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
