import { BUILT_IN_METERS, type Day, MAX_METERS, type MeterDefinition, TallyError } from '@tally/contracts';
import type { DataSource, EntityManager } from 'typeorm';
import { z } from 'zod';
import { MeterEntity, type MeterRow, MeterVersionEntity, type MeterVersionRow } from '../entities/meter.ts';
import { DateText } from '../rows.ts';
import { type Executor, runSql, sql } from '../run-sql.ts';
import { boundWaits } from '../transactions.ts';
import { In, IsNull } from '../typeorm.ts';
import { lockMeters } from './meter-state.ts';
import { declareScale } from './metric-types-store.ts';

export type StoredMeter = MeterRow & {
  /** Days of its history, and how many of them are computed. */
  history: { days: number; daysDone: number };
};

export type MeterVersion = MeterVersionRow;

export type MeterRegistry = {
  /**
   * Adds a meter, with every day of the journal as its history. Throws CONFLICT if the key is taken, also by a meter
   * for every merchant, and CARDINALITY_LIMIT at the limit of meters.
   */
  create(definition: MeterDefinition, by: string): Promise<StoredMeter>;
  /** Changes name and unit, as a new version. Throws NOT_FOUND for an unknown meter. */
  update(
    name: { key: string; merchantId: string },
    change: { name?: string | undefined; unit?: string | null | undefined },
    by: string,
  ): Promise<StoredMeter>;
  /** Removes a meter; its sums are deleted later. Throws NOT_FOUND for an unknown one. */
  remove(name: { key: string; merchantId: string }): Promise<void>;
  /** Returns active meters: those for every merchant and, with `merchantId`, its own; without `merchantId`, all. */
  list(merchantId?: string): Promise<StoredMeter[]>;
  find(name: { key: string; merchantId: string }): Promise<StoredMeter | undefined>;
  versions(id: number): Promise<MeterVersion[]>;
};

const RunRow = z.object({ run: z.string() });
const DayRow = z.object({ date: DateText });
const FirstDayRow = z.object({ date: DateText.nullable() });
const HistoryRow = z.object({ meter_id: z.number(), days: z.number(), done: z.number() });

/** The declared meters, in `meters`. */
export function createMeterRegistry(dataSource: DataSource): MeterRegistry {
  const meters = dataSource.getRepository(MeterEntity);

  /** Runs work while meters count nothing, and raises the version of the registry. */
  const changing = <T>(work: (manager: EntityManager, run: string) => Promise<T>) =>
    dataSource.transaction(async (manager) => {
      // Its caller may have stopped all recording, for a minute.
      await boundWaits(manager);
      await lockMeters(manager);
      const [row] = await runSql(manager, 'meters/next-version', [], RunRow);
      return work(manager, row!.run);
    });

  const inUse = (manager: EntityManager, { key, merchantId }: { key: string; merchantId: string }) =>
    manager.findOneBy(MeterEntity, { key, merchantId, removedAt: IsNull() });

  async function withHistory(rows: readonly MeterRow[], executor: Executor = dataSource): Promise<StoredMeter[]> {
    if (rows.length === 0) return [];
    const found = await runSql(executor, 'meters/history', [rows.map(({ id }) => id)], HistoryRow);
    const counts = new Map(found.map((row) => [row.meter_id, row]));
    return rows.map((row) => {
      const { days = 0, done = 0 } = counts.get(row.id) ?? {};
      return { ...row, history: { days, daysDone: done } };
    });
  }

  return {
    create: ({ merchantId = '', ...definition }, by) =>
      changing(async (manager, run) => {
        const { key } = definition;
        const active = await manager.countBy(MeterEntity, { removedAt: IsNull() });
        if (active >= MAX_METERS)
          throw new TallyError('CARDINALITY_LIMIT', `There are ${active} meters, the most allowed; remove one.`);
        const taken = await manager.findOneBy(MeterEntity, {
          key,
          removedAt: IsNull(),
          ...(merchantId !== '' && { merchantId: In(['', merchantId]) }),
        });
        if (taken) throw new TallyError('CONFLICT', `There is a meter ${key}${ofMerchant(taken)} already.`);
        const days = await journalDays(manager);
        const row = await manager.save(MeterEntity, {
          key,
          merchantId,
          name: definition.name ?? key,
          unit: definition.unit ?? null,
          scale: await scaleOf(manager, definition),
          aggregation: definition.aggregation,
          metricType: definition.metricType ?? null,
          valueProperty: definition.valueProperty ?? null,
          eventType: definition.eventType ?? null,
          filters: definition.filters ?? {},
          dimensions: definition.dimensions ?? [],
          version: 1,
          createdBy: by,
          createdRun: run,
          historyFrom: await firstKnownDay(manager),
          removedAt: null,
          purged: false,
        });
        await manager.query(sql('meters/add-history'), [row.id, days]);
        await manager.insert(MeterVersionEntity, versionOf(row, by));
        // No day has been checked for a new meter.
        await runSql(manager, 'forget-meter-checks', [null], z.unknown());
        return { ...row, history: { days: days.length, daysDone: 0 } };
      }),

    update: (name, change, by) =>
      changing(async (manager) => {
        const row = await inUse(manager, name);
        if (!row) throw unknownMeter(name.key);
        const saved = await manager.save(MeterEntity, {
          ...row,
          name: change.name ?? row.name,
          unit: change.unit === undefined ? row.unit : change.unit,
          version: row.version + 1,
        });
        await manager.insert(MeterVersionEntity, versionOf(saved, by));
        return (await withHistory([saved], manager))[0]!;
      }),

    remove: (name) =>
      changing(async (manager) => {
        const row = await inUse(manager, name);
        if (!row) throw unknownMeter(name.key);
        await manager.update(MeterEntity, { id: row.id }, { removedAt: new Date() });
        await manager.query(sql('meters/remove-history'), [row.id]);
      }),

    async list(merchantId) {
      const rows = await meters.find({
        where: { removedAt: IsNull(), ...(merchantId !== undefined && { merchantId: In(['', merchantId]) }) },
        order: { merchantId: 'asc', key: 'asc' },
      });
      return withHistory(rows);
    },

    async find({ key, merchantId }) {
      const row = await meters.findOneBy({ key, merchantId, removedAt: IsNull() });
      return row ? (await withHistory([row]))[0] : undefined;
    },

    versions: (meterId) =>
      dataSource.getRepository(MeterVersionEntity).find({ where: { meterId }, order: { version: 'desc' } }),
  };
}

export const unknownMeter = (key: string) => new TallyError('NOT_FOUND', `There is no meter ${key}.`);

const ofMerchant = ({ merchantId }: MeterRow) => (merchantId === '' ? '' : ` of merchant ${merchantId}`);

const versionOf = ({ id, version, name, unit }: MeterRow, createdBy: string) => ({
  meterId: id,
  version,
  name,
  unit,
  createdBy,
});

/** The scale of a meter: that of its metric type, else its own. */
async function scaleOf(
  executor: Executor,
  { aggregation, metricType, scale }: Omit<MeterDefinition, 'merchantId'>,
): Promise<number> {
  if (aggregation === 'COUNT' || aggregation === 'UNIQUE') return 0;
  if (metricType === undefined) return scale ?? 0;
  const builtIn = BUILT_IN_METERS.find(({ key }) => key === metricType);
  return builtIn ? builtIn.scale : declareScale(executor, metricType, scale);
}

/** Days in the journal, and days with adjustments only. */
async function journalDays(executor: Executor): Promise<Day[]> {
  const rows = await runSql(executor, 'meters/journal-days', [], DayRow);
  return rows.map(({ date }) => date);
}

/** The day after the last closed one; null if none was closed. */
async function firstKnownDay(executor: Executor): Promise<Day | null> {
  const [row] = await runSql(executor, 'meters/first-known-day', [], FirstDayRow);
  return row!.date;
}
