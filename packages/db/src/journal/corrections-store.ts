import { type Day, MEASURES, type Measure, TallyError, type Units as UnitsType } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import { AdjustmentEntity } from '../entities/adjustment.ts';
import type { MeterRollups } from '../meters/meter-rollups-store.ts';
import { holdRolledUp } from '../rollups/rolled-up.ts';
import { DateText, Moment, Units } from '../rows.ts';
import { type Executor, runPlannedOnce, runSql, sql } from '../run-sql.ts';
import type { Admission } from './admission.ts';
import { type Explained, filtersOf } from './events-store.ts';
import type { Journal } from './journal-store.ts';
import {
  type AdjustmentToRecord,
  columnsOfAdjustments,
  RERATING_COLUMNS,
  type ReratingColumns,
} from './line-columns.ts';
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
   * Records re-ratings of one merchant in one transaction, those that are not recorded yet; counts them also as part of
   * what Tally priced. Returns how many were new.
   */
  rerate(merchantId: string, reratings: ReratingColumns, about: { reason: string; actor: string }): Promise<number>;
  /** The newest adjustments that made a number, oldest first, and how many did. */
  adjustments(number: Explained, limit: number): Promise<{ newest: Adjustment[]; count: number }>;
};

const CountedRow = z.object({ inserted: z.record(DateText, z.array(z.string())) });

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

  /** Records and counts adjustments of one merchant by a statement; returns how many are new. */
  async function record(
    transaction: Executor,
    merchantId: string,
    {
      statement,
      values,
      voids,
    }: { statement: 'adjust' | 'rerate'; values: unknown[]; voids?: VoidedEvent | undefined },
  ): Promise<number> {
    await holdRolledUp(transaction);
    const [counted] = await runPlannedOnce(transaction, statement, values, CountedRow);
    const idsByDay = new Map(Object.entries(counted!.inserted) as [Day, string[]][]);
    const ids = [...idsByDay.values()].flat();
    if (ids.length > 0) {
      await meters.adjusted(transaction, { merchantId, idsByDay, ...(voids && { voids: voids.id }) });
      if (voids) await transaction.query(sql('count-priced-void'), [merchantId, ids[0]]);
      await transaction.query(sql('count-budget-adjustments'), [merchantId, ids]);
    }
    return ids.length;
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
      const { merchantId, id, reason, actor } = adjustment;
      const { committed, records } = await journal.exclusively([merchantId], async (transaction) => {
        const records = await withPseudonyms(transaction, [recordOf(adjustment)]);
        const { bits, committed } = await admission.admit(transaction, records);
        const about = ['adjustment', merchantId, reason, actor, voids?.time ?? null];
        const values = [...about, ...columnsOfAdjustments(records, bits)];
        await record(transaction, merchantId, { statement: 'adjust', values, voids });
        return { committed, records };
      });
      committed();
      const row = await recorded.findOneBy({ merchantId, id });
      const found = row && Row.parse(row);
      const sent = { ...adjustment, dimensions: { ...adjustment.dimensions, userId: records[0]!.user_id } };
      if (!found || !isSame(found, sent)) {
        throw new TallyError('CONFLICT', `Adjustment ${adjustment.id} of this merchant exists, with other contents.`);
      }
      return found;
    },

    rerate(merchantId, reratings, { reason, actor }) {
      const columns = RERATING_COLUMNS.map((name) => reratings[name]);
      const values = ['adjustment', merchantId, reason, actor, ...columns];
      return journal.exclusively([merchantId], (transaction) =>
        record(transaction, merchantId, { statement: 'rerate', values }),
      );
    },
  };
}

function recordOf({ merchantId, id, date, dimensions, amounts }: NewAdjustment): AdjustmentToRecord {
  const isMeasure = (type: string): type is Measure => MEASURES.includes(type as Measure);
  const others = [...amounts].filter(([type]) => !isMeasure(type));
  return {
    ...{ merchant_id: merchantId, id, date },
    ...{ user_id: dimensions.userId, api_key: dimensions.apiKey },
    ...{ model: dimensions.model, provider: dimensions.provider },
    measures: Object.fromEntries([...amounts].filter(([type]) => isMeasure(type))),
    metrics:
      others.length === 0 ? undefined : Object.fromEntries(others.map(([type, units]) => [type, units.toString()])),
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
