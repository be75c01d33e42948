import { MEASURES, type ScaleOf, TallyError } from '@tally/contracts';
import type { DataSource } from 'typeorm';
import { z } from 'zod';
import type { JournalLine } from '../journal-line.ts';
import { holdLock, LOCKS, shareLock } from '../locks.ts';
import type { Executor } from '../run-sql.ts';

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
const SnapshotRow = RegistrySnapshot.extend({ version: z.string().transform(Number) });

/** The scales of metric types, in `metric_types`. */
export function createMetricTypes(dataSource: DataSource): MetricTypes {
  const known = new Map<string, number>();
  return {
    async scales(metricTypes) {
      const wanted = [...new Set(metricTypes)].filter((type) => !known.has(type) && !DECLARED.has(type));
      if (wanted.length > 0) {
        const rows = (await dataSource.query(
          'select metric_type, scale from metric_types where metric_type = any($1)',
          [wanted],
        )) as unknown[];
        for (const row of rows.map((each) => ScaleRow.parse(each))) known.set(row.metric_type, row.scale);
      }
      return (type) => known.get(type) ?? 0;
    },
    async registry() {
      const [row] = (await dataSource.query(`
        select version,
          coalesce((select json_agg(json_build_array(metric_type, scale)) from metric_types where scale > 0), '[]') as scales,
          coalesce((
            select json_agg(json_build_object('meter', key, 'merchantId', merchant_id, 'eventType', event_type,
              'property', regexp_replace(value_property, '^property:', ''), 'scale', scale))
            from meters
            where removed_at is null and value_property is not null and aggregation not in ('UNIQUE', 'COUNT')), '[]') as values
        from meter_state`)) as unknown[];
      return SnapshotRow.parse(row);
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
      await transaction.query(
        `insert into metric_types (metric_type, scale)
         select type, 0 from unnest($1::text[]) as type order by 1
         on conflict do nothing`,
        [[...fresh]],
      );
      return () => {
        for (const type of fresh) noted.add(type);
      };
    },
  };
}

/** Throws StaleRegistryError unless the registry has this version; keeps it so until the transaction ends. */
export async function holdRegistry(transaction: Executor, version: number): Promise<void> {
  await shareLock(transaction, LOCKS.scales);
  const [row] = (await transaction.query('select version from meter_state')) as { version: string }[];
  if (Number(row!.version) !== version) throw new StaleRegistryError('the registry of meters has changed');
}

/** Declares a scale, once and for ever; returns it. Throws CONFLICT if the type has another one. */
export async function declareScale(
  transaction: Executor,
  metricType: string,
  scale: number | undefined,
): Promise<number> {
  if (scale !== undefined && scale > 0) await holdLock(transaction, LOCKS.scales);
  await transaction.query('insert into metric_types (metric_type, scale) values ($1, $2) on conflict do nothing', [
    metricType,
    scale ?? 0,
  ]);
  const [row] = (await transaction.query('select metric_type, scale from metric_types where metric_type = $1', [
    metricType,
  ])) as unknown[];
  const declared = ScaleRow.parse(row).scale;
  if (scale !== undefined && scale !== declared)
    throw new TallyError('CONFLICT', `${metricType} has the scale ${declared}, for all merchants and for ever.`, {
      details: { metricType, scale: declared },
    });
  return declared;
}
