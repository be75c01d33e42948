import { MEASURES, type ScaleOf, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from '../journal/journal-line.ts';
import { holdLock, LOCKS, shareLock } from '../locks.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';

/** A property value that a meter reads as a number. */
const ValueCheck = z.object({
  meter: z.string(),
  /** '': for every merchant. */
  merchantId: z.string(),
  eventType: z.string().nullable(),
  property: z.string(),
  scale: z.number(),
});
export type ValueCheck = z.infer<typeof ValueCheck>;

/** What ingest must know about meters, from one moment. */
export const RegistrySnapshot = z.object({
  version: z.number(),
  /** Metric types with decimals, and how many; all others are whole numbers. */
  scales: z.array(z.tuple([z.string(), z.number()])),
  values: z.array(ValueCheck),
});
export type RegistrySnapshot = z.infer<typeof RegistrySnapshot>;

/** The events were checked with an older registry of meters than the current one. */
export class StaleRegistryError extends Error {
  override name = 'StaleRegistryError';
}

export type MetricTypes = {
  /**
   * Returns the decimals of metric types. A scale is declared before the first event has decimals, so call it after
   * reading the amounts. Asks Postgres only about types that are new to this process.
   */
  scales(metricTypes: Iterable<string>): Promise<ScaleOf>;
  registry(): Promise<RegistrySnapshot>;
};

const ScaleRow = z.object({ metric_type: z.string(), scale: z.number() });
const VersionRow = z.object({ version: z.string().transform(Number) });
const SnapshotRow = RegistrySnapshot.extend(VersionRow.shape);

/** The scales of metric types, in `metric_types`. */
export function createMetricTypes(dataSource: DataSource): MetricTypes {
  const known = new Map<string, number>();
  return {
    async scales(metricTypes) {
      const wanted = [...new Set(metricTypes)].filter((type) => !known.has(type) && !DECLARED.has(type));
      if (wanted.length > 0) {
        const rows = await runSql(dataSource, 'metric-types/scales', [wanted], ScaleRow);
        for (const row of rows) known.set(row.metric_type, row.scale);
      }
      return (type) => known.get(type) ?? 0;
    },
    async registry() {
      const [row] = await runSql(dataSource, 'metric-types/registry', [], SnapshotRow);
      return row!;
    },
  };
}

const DECLARED = new Set<string>([...MEASURES, 'total_tokens']);

/** Metric types declared by committed transactions of this process. */
export function createTypeNotes() {
  const noted = new Set<string>();
  return {
    /** Declares undeclared types of lines with the scale 0. Call the returned function when the transaction commits. */
    async note(transaction: Executor, lines: readonly JournalLine[]): Promise<() => void> {
      const fresh = new Set<string>();
      for (const { metrics } of lines) for (const type in metrics) if (!noted.has(type)) fresh.add(type);
      if (fresh.size === 0) return () => {};
      await transaction.query(sql('metric-types/declare'), [[...fresh], 0]);
      return () => {
        for (const type of fresh) noted.add(type);
      };
    },
  };
}

/** Throws StaleRegistryError unless the registry has this version; keeps it so until the transaction ends. */
export async function holdRegistry(transaction: Executor, version: number): Promise<void> {
  await shareLock(transaction, LOCKS.scales);
  const [row] = await runSql(transaction, 'metric-types/registry-version', [], VersionRow);
  if (row!.version !== version) throw new StaleRegistryError('the registry of meters has changed');
}

/** Declares a scale, once and for ever; returns it. Throws CONFLICT if the type has another one. */
export async function declareScale(
  transaction: Executor,
  metricType: string,
  scale: number | undefined,
): Promise<number> {
  if (scale !== undefined && scale > 0) await holdLock(transaction, LOCKS.scales);
  await transaction.query(sql('metric-types/declare'), [[metricType], scale ?? 0]);
  const [row] = await runSql(transaction, 'metric-types/scales', [[metricType]], ScaleRow);
  const declared = row!.scale;
  if (scale !== undefined && scale !== declared)
    throw new TallyError(
      'CONFLICT',
      `${metricType} has the scale ${declared} for all merchants, which cannot change.`,
      {
        details: { metricType, scale: declared },
      },
    );
  return declared;
}
